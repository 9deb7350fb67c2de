//! Data loading for sorted fine-tuning (SoFT).
//!
//! [`read_alpaca`], [`read_trivia_qa`] and [`read_jsonl`] read files into [`Record`]s, [`encode`]
//! turns records into examples with the [`Tokenizer`] of a model folder, and a [`Loader`] yields
//! them in shuffled batches and can resume at any batch. The crate depends on no model and no
//! tensor library; batches are [`soft_core::Batch`].
//!
//! ```
//! use soft_core::BatchStream;
//! use soft_data::{Holdout, Loader, LoaderConfig, Tokenizer, encode, read_jsonl, split};
//!
//! # let folder = tempfile::tempdir()?;
//! # let file = folder.path().join("rows.jsonl");
//! # std::fs::write(&file, r#"{"prompt": "Capital of France?", "response": " Paris"}
//! # {"prompt": "Capital of Peru?", "response": " Lima"}
//! # {"prompt": "Capital of Chad?", "response": " N'Djamena"}"#)?;
//! let records = read_jsonl(&file)?;
//! let tokenizer = Tokenizer::from_folder("tests/tokenizers/bytes", 270)?;
//! let (examples, report) = encode(&records, &tokenizer, 512)?;
//! assert_eq!(report.kept, 3);
//!
//! let parts = split(examples, Holdout::Rows(1), 0)?;
//! let config = LoaderConfig { batch_size: 2, ..LoaderConfig::default() };
//! let mut loader = Loader::new(parts.train, config)?;
//! let batch = loader.next_batch()?;
//! assert_eq!(batch.rows(), 2);
//! assert_eq!(loader.position().epoch, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Rows may be conversations, which the folder's [`ChatTemplate`] renders for training and for
//! inference alike. At inference, [`TextStream`] decodes generated tokens incrementally, and
//! [`StopStrings`] ends the answer.
//!
//! Rules that affect training are documented where they are implemented: prompts in
//! [`alpaca_prompt`] and [`trivia_prompt`], the boundary between prompt and response in
//! [`Tokenizer`], truncation in [`encode`], the order of rows in [`Loader`], control tokens in text
//! in [`ControlText`].

mod alpaca;
mod chat;
mod chat_files;
mod control;
mod conversation;
mod decoder;
mod encode;
mod error;
mod format;
mod frequency;
mod guard;
#[cfg(feature = "hub")]
mod hub;
mod jsonl;
mod loader;
mod prompts;
mod record;
mod rows;
mod shuffle;
mod spacing;
mod special;
mod split;
mod stop;
mod stream;
mod tokenizer;
mod trivia;

pub use alpaca::{alpaca_prompt, read_alpaca};
pub use chat::ChatTemplate;
pub use chat_files::{NamedText, chat_files};
pub use control::ControlText;
pub use conversation::{Conversation, Message, Role};
pub use encode::{EncodeReport, encode, encode_by_record, encode_prompt};
pub use error::DataError;
pub use format::Format;
pub use frequency::frequent_tokens;
#[cfg(feature = "hub")]
pub use hub::{Hub, HubConfig, HubError, HubFolder, HubName, HubProgress, Missing};
pub use jsonl::read_jsonl;
pub use loader::{Loader, LoaderConfig, ordered_batches};
pub use prompts::{Instruction, PromptBody, read_instructions, read_prompts};
pub use record::{Body, Record, TriviaQuestion};
pub use rows::read_text;
pub use split::{Holdout, Split, split};
pub use stop::{Passed, StopStrings};
pub use stream::TextStream;
pub use tokenizer::Tokenizer;
pub use trivia::{read_trivia_qa, trivia_prompt};

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
