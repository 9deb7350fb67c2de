//! The names by which requests choose a depth or a decoding mode.

use axum::http::StatusCode;
use serde_json::{Value, json};
use soft_burn::DecodingDefaults;

use super::refusal::Refusal;

/// One checkpoint under several names: `NAME`, `NAME@12`, `NAME@auto`.
pub struct Models {
    name: String,
    created: u64,
    depth: usize,
    /// What may stand behind the `@`, besides any depth.
    suffixes: Vec<String>,
}

impl Models {
    pub fn new(name: String, created: u64, trained: &DecodingDefaults) -> Self {
        let exits = trained.exits.iter().flat_map(|exits| exits.iter());
        let early = exits.filter(|exit| exit.depth() < trained.depth);
        let mut suffixes: Vec<String> = early.map(|exit| exit.to_string()).collect();
        if !suffixes.is_empty() {
            suffixes.extend(["auto", "speculative", "dynamic"].map(str::to_owned));
        }
        Self {
            name,
            created,
            depth: trained.depth,
            suffixes,
        }
    }

    /// All names; those of one depth with what a token there costs now, in milliseconds.
    pub fn json(&self, costs: &[(usize, f64)]) -> Value {
        let entry = |id: String, depth: Option<usize>| {
            let mut entry = self.entry(&id);
            let cost = costs.iter().find(|(exit, _)| Some(*exit) == depth);
            if let Some((depth, ms)) = cost {
                entry["depth"] = json!(depth);
                entry["ms_per_token"] = json!(ms);
            }
            entry
        };
        let full = entry(self.name.clone(), Some(self.depth));
        let others = self.suffixes.iter();
        let others = others.map(|it| entry(format!("{}@{it}", self.name), it.parse().ok()));
        let data: Vec<Value> = std::iter::once(full).chain(others).collect();
        json!({"object": "list", "data": data})
    }

    fn entry(&self, id: &str) -> Value {
        json!({"id": id, "object": "model", "created": self.created, "owned_by": "soft"})
    }

    /// One name, if it is known.
    pub fn one(&self, name: &str) -> Result<Value, Refusal> {
        self.find(Some(name))?;
        Ok(self.entry(name))
    }

    /// The full name and the mode that it stands for. Without a name: the full model.
    pub fn find(&self, name: Option<&str>) -> Result<(String, Option<String>), Refusal> {
        let Some(name) = name else {
            return Ok((self.name.clone(), None));
        };
        let suffix = match name.strip_prefix(&self.name) {
            Some("") => return Ok((name.to_owned(), None)),
            Some(rest) => rest.strip_prefix('@'),
            None => None,
        };
        let depth = suffix.and_then(|suffix| suffix.parse::<usize>().ok());
        let mode = match (suffix, depth) {
            (_, Some(depth)) if (1..=self.depth).contains(&depth) => Some(format!("exit={depth}")),
            (Some(suffix), None) if self.suffixes.iter().any(|known| known == suffix) => {
                Some(suffix.to_owned())
            }
            _ => None,
        };
        let unknown = || {
            let known: Vec<_> = self
                .suffixes
                .iter()
                .map(|suffix| format!("@{suffix}"))
                .collect();
            let message = format!(
                "no model {name:?}: expected {:?}, alone or with {}",
                self.name,
                if known.is_empty() {
                    "@DEPTH".to_owned()
                } else {
                    known.join(", ")
                }
            );
            Refusal::new(StatusCode::NOT_FOUND, "model_not_found", message)
        };
        Ok((name.to_owned(), Some(mode.ok_or_else(unknown)?)))
    }
}
