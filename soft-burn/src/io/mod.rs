//! Models as folders.

pub(crate) mod draft_tokens;
pub(crate) mod pretrained;
