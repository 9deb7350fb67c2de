//! The result files of lm-eval: `results_*.json` and `samples_{task}_*.jsonl`.

use serde_json::{Map, Value, json};

use super::scores::ChoiceScores;
use super::task::{Asked, Document, Task};
use super::{DELIMITER, MAX_NEW_TOKENS, STOPS};

/// A question with its result.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    /// The likelihoods of its choices.
    Choices(ChoiceScores),
    /// An answer.
    Answer {
        /// The text up to the first stop, with white space around it.
        text: String,
        /// Whether it is right.
        right: bool,
    },
}

impl Sample {
    /// The metrics of the task and their values.
    fn metrics(&self) -> Vec<(&'static str, f64)> {
        let number = |right: bool| f64::from(u8::from(right));
        match self {
            Self::Choices(scores) => vec![
                ("acc", number(scores.accurate)),
                ("acc_norm", number(scores.accurate_by_length)),
            ],
            Self::Answer { right, .. } => vec![("exact_match", number(*right))],
        }
    }
}

/// The results of one model, or of one sub-model, on a task.
#[derive(Clone, Debug)]
pub struct Results<'a> {
    /// The task.
    pub task: Task,
    /// Name of the model.
    pub model: String,
    /// The questions.
    pub documents: &'a [Document],
    /// Their results, in the same order.
    pub samples: Vec<Sample>,
    /// Number of rows in the data set.
    pub rows: usize,
    /// Settings of the run, for the file.
    pub settings: Map<String, Value>,
}

impl Results<'_> {
    /// For each metric, its mean and the standard error of the mean, which one sample has not.
    pub fn metrics(&self) -> Vec<(&'static str, f64, Option<f64>)> {
        let names = self.names();
        let of_metric = |name: &'static str| {
            let of_sample = |sample: &Sample| {
                let metrics = sample.metrics().into_iter();
                metrics
                    .filter(|(other, _)| *other == name)
                    .map(|it| it.1)
                    .sum::<f64>()
            };
            let values: Vec<f64> = self.samples.iter().map(of_sample).collect();
            let count = values.len() as f64;
            let mean = values.iter().sum::<f64>() / count;
            let squares = values.iter().map(|value| (value - mean) * (value - mean));
            let variance = squares.sum::<f64>() / (count - 1.0);
            (name, mean, (count > 1.0).then(|| (variance / count).sqrt()))
        };
        names.into_iter().map(of_metric).collect()
    }

    /// The metrics of the task.
    fn names(&self) -> Vec<&'static str> {
        match self.task {
            Task::TriviaQa => vec!["exact_match"],
            Task::BoolQ => vec!["acc"],
            _ => vec!["acc", "acc_norm"],
        }
    }

    /// The content of `results_*.json`.
    pub fn to_json(&self) -> Value {
        let (name, filter) = (self.task.name(), self.task.filter());
        let mut of_task = Map::new();
        of_task.insert("alias".to_owned(), name.into());
        of_task.insert("sample_len".to_owned(), self.samples.len().into());
        for (metric, mean, error) in self.metrics() {
            of_task.insert(format!("{metric},{filter}"), mean.into());
            let error = error.map_or_else(|| "N/A".into(), Value::from);
            of_task.insert(format!("{metric}_stderr,{filter}"), error);
        }
        let better = self
            .names()
            .into_iter()
            .map(|name| (name.to_owned(), true.into()));
        let better: Map<String, Value> = better.collect();
        json!({
            "results": {name: of_task},
            "group_subtasks": {name: []},
            "configs": {name: self.task_config()},
            "versions": {name: self.task.version()},
            "n-shot": {name: 0},
            "higher_is_better": {name: better},
            "n-samples": {name: {"original": self.rows, "effective": self.samples.len()}},
            "config": self.settings,
            "model_source": "soft",
            "model_name": self.model,
        })
    }

    fn task_config(&self) -> Value {
        let metrics = self.names().into_iter().map(
            |metric| json!({"metric": metric, "aggregation": "mean", "higher_is_better": true}),
        );
        let mut config = json!({
            "task": self.task.name(),
            "metric_list": metrics.collect::<Vec<_>>(),
            "num_fewshot": 0,
            "target_delimiter": DELIMITER,
            "metadata": {"version": self.task.version()},
        });
        match self.task {
            Task::TriviaQa => {
                config["output_type"] = "generate_until".into();
                config["generation_kwargs"] =
                    json!({"until": STOPS, "do_sample": false, "max_gen_toks": MAX_NEW_TOKENS});
            }
            _ => config["output_type"] = "multiple_choice".into(),
        }
        config
    }

    /// The lines of `samples_{task}_*.jsonl`.
    pub fn sample_lines(&self) -> impl Iterator<Item = Value> {
        let pairs = self.documents.iter().zip(&self.samples).enumerate();
        pairs.map(|(index, (document, sample))| self.sample_line(index, document, sample))
    }

    fn sample_line(&self, index: usize, document: &Document, sample: &Sample) -> Value {
        let (mut arguments, mut responses) = (Map::new(), Vec::new());
        let mut target = String::new();
        match (&document.asked, sample) {
            (Asked::Choices { choices, right }, Sample::Choices(scores)) => {
                target = right.to_string();
                let likelihoods = scores.log_likelihoods.iter().zip(&scores.greedy);
                for (number, (choice, (nats, greedy))) in
                    choices.iter().zip(likelihoods).enumerate()
                {
                    let continuation = format!("{DELIMITER}{choice}");
                    let pair = json!({"arg_0": document.context, "arg_1": continuation});
                    arguments.insert(format!("gen_args_{number}"), pair);
                    // Truth values as Python writes them.
                    let greedy = if *greedy { "True" } else { "False" };
                    responses.push(json!([nats.to_string(), greedy]));
                }
            }
            (Asked::Answer(accepted), Sample::Answer { text, .. }) => {
                target = json!(accepted).to_string();
                let call = json!({"until": STOPS, "do_sample": false});
                let pair = json!({"arg_0": document.context, "arg_1": call});
                arguments.insert("gen_args_0".to_owned(), pair);
                responses.push(json!(text));
            }
            _ => {}
        }
        let mut line = json!({
            "doc_id": index,
            "doc": document.row,
            "target": target,
            "arguments": arguments,
            "resps": responses.iter().map(|response| json!([response])).collect::<Vec<_>>(),
            "filtered_resps": filtered(&responses),
            "filter": self.task.filter(),
            "metrics": self.names(),
        });
        let names = self.names();
        for (metric, value) in sample.metrics() {
            if names.contains(&metric) {
                line[metric] = value.into();
            }
        }
        line
    }
}

/// What the task's filter makes of responses: texts lose the white space around them.
fn filtered(responses: &[Value]) -> Vec<Value> {
    let filtered = |response: &Value| match response {
        Value::String(text) => text.trim().into(),
        other => other.clone(),
    };
    responses.iter().map(filtered).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm_eval::choice_scores;

    #[test]
    fn means_and_errors_by_hand() {
        let choices = ["a".to_owned(), "b".to_owned()];
        let document = |right| Document {
            context: "c".to_owned(),
            asked: Asked::Choices {
                choices: choices.to_vec(),
                right,
            },
            row: Value::Null,
        };
        let documents = [document(0), document(1), document(0), document(0)];
        let sample = |right| {
            let scores = choice_scores(&choices, right, vec![-1.0, -2.0], vec![true, false]);
            Sample::Choices(scores)
        };
        let results = Results {
            task: Task::Piqa,
            model: "m".to_owned(),
            documents: &documents,
            samples: vec![sample(0), sample(1), sample(0), sample(0)],
            rows: 9,
            settings: Map::new(),
        };
        let json = results.to_json();
        let of_task = &json["results"]["piqa"];
        assert_eq!(of_task["acc,none"], 0.75);
        // √(0.75 · 0.25 · 4 / 3 / 4)
        assert_eq!(of_task["acc_stderr,none"], 0.25);
        assert_eq!(json["n-samples"]["piqa"]["original"], 9);
        let line = results.sample_lines().next().unwrap();
        assert_eq!(line["arguments"]["gen_args_1"]["arg_1"], " b");
        assert_eq!(line["filtered_resps"][0], json!(["-1", "True"]));
    }
}
