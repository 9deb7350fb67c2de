//! `soft lens`: the most probable next token at every depth, after each token of a prompt.
//!
//! This is the logit lens (nostalgebraist, 2020): final norm and head applied to the output of
//! every block. `--save` writes the logits of the depths shown to a safetensors file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::{Dtype, TensorView};
use soft_burn::LlamaConfig;
use soft_burn::burn::tensor::{Tensor, activation};
use soft_core::{DecodeModel, Exits, NestedModel};
use soft_data::{PromptBody, Tokenizer};
use soft_examples::hub::model_folder;
use soft_examples::model::{self, ModelArgs};
use soft_examples::outln;
use soft_examples::table::table;
use soft_examples::tokens::warn_of_control_text;

#[derive(clap::Args, Debug)]
#[command(group(clap::ArgGroup::new("text").required(true)))]
pub struct Args {
    #[command(flatten)]
    source: ModelArgs,
    /// Text
    #[arg(long, group = "text")]
    prompt: Option<String>,
    /// Token ids instead of a text: 1,2,3
    #[arg(long, value_delimiter = ',', group = "text")]
    tokens: Option<Vec<u32>>,
    /// Depths to show [default: all]
    #[arg(long)]
    exits: Option<Exits>,
    /// Write the logits of every depth shown to this new file, as logits.exit_N [batch,
    /// seq, vocab] for depth N
    #[arg(long)]
    save: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<()> {
    if let Some(path) = &args.save {
        ensure!(!path.exists(), "{} is there already", path.display());
    }
    let place = args.source.place.open()?;
    let folder = model_folder(&args.source.model)?;
    let config = LlamaConfig::load(&folder)?;
    let exits = match &args.exits {
        Some(exits) => exits.clone(),
        None => Exits::every(1, 1..=config.n_layers)?,
    };
    exits.check_within(config.n_layers)?;
    // Token ids do not need a tokenizer.
    let tokenizer = args.source.tokens.open(&folder, config.vocab);
    let tokens = match (&args.prompt, args.tokens.clone()) {
        (None, Some(tokens)) => tokens,
        (Some(prompt), None) => {
            let tokenizer = tokenizer.as_ref();
            let tokenizer = tokenizer.map_err(|error| anyhow::anyhow!("{error}"))?;
            let text = PromptBody::Text(prompt.clone());
            warn_of_control_text(&tokenizer.control_text_of(std::slice::from_ref(&text)));
            text.encode(tokenizer)?
        }
        _ => bail!("no text: expected --prompt or --tokens"),
    };
    ensure!(!tokens.is_empty(), "the prompt has no tokens");
    ensure!(
        tokens.len() <= config.max_positions,
        "the prompt has {} tokens: the model's context holds {}",
        tokens.len(),
        config.max_positions
    );
    let model = model::load(&folder, place)?;
    let input = model.tokens(std::slice::from_ref(&tokens))?;

    let mut depths = Vec::new();
    model.visit_exits(&input, &exits, |exit, hidden| {
        depths.push((exit.depth(), model.logits(hidden, exit)?));
        Ok(())
    })?;
    let spell = |token: u32| spelling(tokenizer.as_ref().ok(), token);
    print_lens(&tokens, &depths, spell)?;
    match &args.save {
        Some(path) => save(path, &depths),
        None => Ok(()),
    }
}

/// The token as quoted text, or its id without a tokenizer.
fn spelling(tokenizer: Option<&Tokenizer>, token: u32) -> String {
    let text = tokenizer.and_then(|tokenizer| tokenizer.decode(&[token]).ok());
    text.filter(|text| !text.is_empty())
        .map_or_else(|| token.to_string(), |text| format!("{text:?}"))
}

fn print_lens(
    tokens: &[u32],
    depths: &[(usize, Tensor<3>)],
    spell: impl Fn(u32) -> String,
) -> Result<()> {
    let mut headings = vec!["depth".to_owned()];
    headings.extend(tokens.iter().map(|&token| spell(token)));
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let mut rows = Vec::new();
    for (depth, logits) in depths {
        let (probability, token) = activation::softmax(logits.clone(), 2).max_dim_with_indices(2);
        let tokens = token.try_into_vec_as::<i64>()?;
        let best = tokens
            .into_iter()
            .zip(probability.try_into_vec_as::<f32>()?);
        let cells = best.map(|(token, probability)| {
            format!("{} {:.0}%", spell(token as u32), 100.0 * probability)
        });
        rows.push(
            std::iter::once(depth.to_string())
                .chain(cells)
                .collect::<Vec<_>>(),
        );
    }
    outln!("{}", table(&headings, rows));
    outln!("each cell: the most probable token after the one in the heading");
    Ok(())
}

fn save(path: &Path, depths: &[(usize, Tensor<3>)]) -> Result<()> {
    let mut tensors = Vec::new();
    for (depth, logits) in depths {
        let values = logits.clone().try_into_vec_as::<f32>()?;
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        tensors.push((
            format!("logits.exit_{depth}"),
            logits.dims().to_vec(),
            bytes,
        ));
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        Ok((
            name.as_str(),
            TensorView::new(Dtype::F32, shape.clone(), bytes)?,
        ))
    });
    let views = views.collect::<Result<HashMap<_, _>>>()?;
    safetensors::serialize_to_file(views, None, path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    outln!("logits: {}", path.display());
    Ok(())
}
