//! Compiling and running a template, on a thread with a stack of its own.

use std::collections::BTreeMap;
use std::io;
use std::thread;

use minijinja::machinery::{CodeGenerator, Instructions, Vm, make_string_output, parse};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};

use super::bounds;
use super::source::WHITESPACE;

/// A compiled template.
pub(super) struct Program<'a> {
    environment: &'a Environment<'a>,
    instructions: Instructions<'a>,
    blocks: BTreeMap<&'a str, Instructions<'a>>,
}

impl<'a> Program<'a> {
    /// Compiles `source`, which [`prepared`](super::source::prepared) has made.
    pub(super) fn new(environment: &'a Environment<'a>, source: &'a str) -> Result<Self, Error> {
        let statements = parse(source, "chat template", Default::default(), WHITESPACE)?;
        let mut generator = CodeGenerator::new("chat template", source);
        generator.compile_stmt(&statements);
        let (instructions, blocks) = generator.finish();
        let blocks = blocks.into_iter();
        let blocks = blocks.map(|(name, block)| Ok((name, bounds::limited(block)?)));
        Ok(Self {
            environment,
            instructions: bounds::limited(instructions)?,
            blocks: blocks.collect::<Result<_, Error>>()?,
        })
    }

    /// The text that the template makes of `given`.
    pub(super) fn render(&self, given: Value) -> Result<String, Error> {
        bounds::begin();
        let mut text = String::new();
        let mut output = make_string_output(&mut text);
        let vm = Vm::new(self.environment);
        let plain = AutoEscape::None;
        vm.eval(&self.instructions, given, &self.blocks, &mut output, plain)?;
        Ok(text)
    }
}

/// Runs `work` where nested values have room.
pub(super) fn with_stack<T: Send>(
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let failed = |cause: io::Error| Error::new(ErrorKind::InvalidOperation, cause.to_string());
    thread::scope(|scope| {
        let builder = thread::Builder::new().stack_size(bounds::STACK);
        let thread = builder.spawn_scoped(scope, work).map_err(failed)?;
        thread.join().unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::InvalidOperation,
                "the template engine failed",
            ))
        })
    })
}

/// What a template without a conversation makes, for tests.
#[cfg(test)]
pub(super) fn render_plain(template: &str) -> Result<String, Error> {
    let environment = super::dialect::environment();
    let source = super::source::prepared(template);
    with_stack(|| Program::new(&environment, &source)?.render(Value::from(())))
}
