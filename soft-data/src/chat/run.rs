//! Compiles templates and runs them on a separate thread.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;

use minijinja::machinery::{CodeGenerator, Instructions, Vm, make_string_output, parse};
use minijinja::{AutoEscape, Error, ErrorKind};

use super::source::WHITESPACE;
use super::{Ending, Template, limits};
use crate::Conversation;

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

/// Runs `work` on a thread with a large stack, which is abandoned at the time limit.
pub(super) fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let failed = |cause: io::Error| Error::new(ErrorKind::InvalidOperation, cause.to_string());
    let (done, result) = channel();
    let run = move || {
        limits::start_clock();
        // After a timeout the receiver is gone.
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

#[cfg(test)]
pub(super) fn render_plain(template: &str) -> Result<String, Error> {
    let template = Template::of_source(template);
    let nothing = Conversation::default();
    apart(move || Program::new(&template)?.render(&nothing, Ending::Messages))
}
