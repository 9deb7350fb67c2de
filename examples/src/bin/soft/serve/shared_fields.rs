//! Fields that completions and chats share, and the decoding arguments made of them.

use serde::Deserialize;
use serde_json::Value;
use soft_examples::decoding::DecodingArgs;

use super::fields::{parsed, within};
use super::refusal::Refusal;

const MOST_CHOICES: usize = 16;
const MOST_SETTING_BYTES: usize = 1024;

/// Fields that both kinds of requests have. `null` is as good as absent.
#[derive(Deserialize, Default, Clone, Debug)]
#[serde(default)]
pub struct SharedFields {
    pub model: Option<String>,
    pub n: Option<usize>,
    pub seed: Option<i64>,
    pub stop: Option<OneOrMore<String>>,
    pub stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    pub max_tokens: Option<usize>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    logit_bias: Option<serde_json::Map<String, Value>>,
    // Beyond OpenAI's API.
    top_k: Option<usize>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    ignore_eos: Option<bool>,
    /// As `--mode` of `soft generate`.
    mode: Option<String>,
    exits: Option<String>,
    policy: Option<String>,
    thresholds: Option<String>,
    draft_length: Option<String>,
    /// Milliseconds per token: the deepest exit that meets it.
    pub max_ms_per_token: Option<f64>,
}

#[derive(Deserialize, Clone, Copy, Debug)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Deserialize, Clone, Debug)]
#[serde(untagged)]
pub enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    pub fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::More(more) => more,
        }
    }
}

impl SharedFields {
    /// Checks that the fields are in range.
    pub fn check(&self) -> Result<(), Refusal> {
        let texts = [
            ("mode", &self.mode),
            ("exits", &self.exits),
            ("policy", &self.policy),
            ("thresholds", &self.thresholds),
            ("draft_length", &self.draft_length),
        ];
        for (name, text) in texts {
            let bytes = text.as_ref().map_or(0, String::len);
            within(name, bytes, 0..=MOST_SETTING_BYTES, "bytes")?;
        }
        within("n", self.n.unwrap_or(1), 1..=MOST_CHOICES, "answers")?;
        let penalties = [
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ];
        for (name, penalty) in penalties {
            if penalty.is_some_and(|penalty| penalty != 0.0) {
                return Err(Refusal::invalid(
                    name,
                    format!("{name} is not supported: expected 0; repetition_penalty is"),
                ));
            }
        }
        if self
            .logit_bias
            .as_ref()
            .is_some_and(|bias| !bias.is_empty())
        {
            return Err(Refusal::invalid(
                "logit_bias",
                "logit_bias is not supported",
            ));
        }
        let temperature = self.temperature.unwrap_or(1.0);
        if !(0.0..=100.0).contains(&temperature) {
            return Err(Refusal::invalid(
                "temperature",
                format!("temperature is {temperature}: expected 0 to 100"),
            ));
        }
        if self.max_ms_per_token.is_some_and(|budget| budget <= 0.0) {
            return Err(Refusal::invalid(
                "max_ms_per_token",
                "max_ms_per_token: expected a number above 0",
            ));
        }
        if self.max_ms_per_token.is_some() && self.mode.is_some() {
            return Err(Refusal::invalid(
                "max_ms_per_token",
                "max_ms_per_token chooses the exit: expected no mode beside it",
            ));
        }
        Ok(())
    }

    pub fn includes_usage(&self) -> bool {
        self.stream_options
            .is_some_and(|options| options.include_usage == Some(true))
    }

    /// The decoding arguments in this mode, unless the request names another.
    pub fn decoding(
        &self,
        mode: Option<String>,
        max_new_tokens: usize,
    ) -> Result<DecodingArgs, Refusal> {
        let mode = match (mode, &self.mode) {
            (Some(of_model), Some(asked)) if of_model != *asked => {
                return Err(Refusal::invalid(
                    "mode",
                    format!("mode is {asked:?}, but the model's name says {of_model:?}"),
                ));
            }
            (of_model, asked) => asked
                .clone()
                .or(of_model)
                .unwrap_or_else(|| "full".to_owned()),
        };
        // At temperature 0 these select nothing, and clients send them all the same.
        let temperature = self.temperature.unwrap_or(1.0);
        let sampled = temperature > 0.0;
        let args = DecodingArgs {
            exits: parsed("exits", self.exits.as_deref())?,
            policy: self.policy.clone(),
            thresholds: parsed("thresholds", self.thresholds.as_deref())?,
            draft_length: self.draft_length.clone(),
            ignore_eos: self.ignore_eos.unwrap_or(false),
            temperature,
            top_k: self.top_k.filter(|_| sampled),
            top_p: self.top_p.filter(|_| sampled),
            min_p: self.min_p.filter(|_| sampled),
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            ..DecodingArgs::of_mode(&mode, max_new_tokens)
        };
        args.refuse_unused()
            .map_err(|error| Refusal::bad_request(error.to_string()))?;
        Ok(args)
    }
}
