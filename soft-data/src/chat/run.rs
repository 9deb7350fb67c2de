//! Compiling and running a template, on a thread of its own.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;

use minijinja::machinery::{CodeGenerator, Instructions, Vm, make_string_output, parse};
use minijinja::{AutoEscape, Error, ErrorKind};

use super::source::WHITESPACE;
use super::{Ending, Template, limits};
use crate::Conversation;

/// A compiled template.
pub(super) struct Program<'a> {
    template: &'a Template,
    instructions: Instructions<'a>,
    blocks: BTreeMap<&'a str, Instructions<'a>>,
}

impl<'a> Program<'a> {
    pub(super) fn new(template: &'a Template) -> Result<Self, Error> {
        let source = &template.prepared;
        let statements = parse(source, "chat template", Default::default(), WHITESPACE)?;
        let mut generator = CodeGenerator::new("chat template", source);
        generator.compile_stmt(&statements);
        let (instructions, blocks) = generator.finish();
        let blocks = blocks.into_iter();
        let blocks = blocks.map(|(name, block)| Ok((name, limits::limited(block)?)));
        Ok(Self {
            template,
            instructions: limits::limited(instructions)?,
            blocks: blocks.collect::<Result<_, Error>>()?,
        })
    }

    /// The text that the template makes of a conversation.
    pub(super) fn render(
        &self,
        conversation: &Conversation,
        ending: Ending,
    ) -> Result<String, Error> {
        let given = self.template.given(conversation, ending)?;
        limits::begin();
        let mut text = String::new();
        let mut output = make_string_output(&mut text);
        let vm = Vm::new(&self.template.environment);
        let plain = AutoEscape::None;
        vm.eval(&self.instructions, given, &self.blocks, &mut output, plain)?;
        Ok(text)
    }
}

/// Runs `work` on a thread where nested values have room, and which is left to itself when it takes
/// too long.
pub(super) fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let failed = |cause: io::Error| Error::new(ErrorKind::InvalidOperation, cause.to_string());
    let (done, result) = channel();
    let run = move || {
        limits::start_clock();
        // Nobody listens any more where it took too long.
        let _ = done.send(work());
    };
    let builder = thread::Builder::new().stack_size(limits::STACK);
    builder.spawn(run).map_err(failed)?;
    match result.recv_timeout(limits::MAX_TIME + limits::GRACE) {
        Ok(done) => done,
        Err(RecvTimeoutError::Timeout) => Err(limits::out_of_time()),
        Err(RecvTimeoutError::Disconnected) => Err(Error::new(
            ErrorKind::InvalidOperation,
            "the template engine failed",
        )),
    }
}

/// What a template without a conversation makes, for tests.
#[cfg(test)]
pub(super) fn render_plain(template: &str) -> Result<String, Error> {
    let template = Template::of_source(template);
    let nothing = Conversation::default();
    apart(move || Program::new(&template)?.render(&nothing, Ending::Messages))
}
