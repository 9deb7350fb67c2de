//! The words of the world, their token ids, and tokenizer files for Hugging Face `tokenizers` and
//! transformers.
//!
//! Ids are indices in [`vocabulary`]. New words must go to the end of [`PLAIN_WORDS`], or trained
//! models no longer match.

use serde_json::json;

/// Special tokens, with ids 0 to 3.
pub const SPECIAL: [&str; 4] = ["<pad>", "<bos>", "<eos>", "<unk>"];
pub const PEOPLE: [&str; 24] = words(
    "mira taro bela nilo suri odan lumi kato fenna jovi pia rolf anka doro elin gus hilde ivo \
     juna petra silas tilda wendel yaro",
);
pub const TOWNS: [&str; 16] = words(
    "karu velm oster pellin dunmoor sarn lindel mosk ravik tolma ebern quorra hasp wick noril \
     zell",
);
pub const JOBS: [&str; 12] =
    words("baker smith weaver sailor teacher miller potter doctor gardener piper carter painter");
/// In alphabetical order, which the sorting task relies on.
pub const FOODS: [&str; 20] = words(
    "apple bread carrot date egg fig grape honey icing jam kale lemon melon nut olive pear \
     quince rice soup toast",
);
pub const COLOURS: [&str; 8] = words("red blue green yellow white black brown purple");
pub const PETS: [&str; 12] = words("fox cat dog hen goat pony crow hare mouse toad goose badger");
pub const DAYS: [&str; 7] = words("monday tuesday wednesday thursday friday saturday sunday");
pub const MONTHS: [&str; 12] =
    words("january february march april may june july august september october november december");
const UNITS: [&str; 20] = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen \
     fifteen sixteen seventeen eighteen nineteen",
);
const TENS: [&str; 8] = words("twenty thirty forty fifty sixty seventy eighty ninety");
/// All other words of the sentences.
const PLAIN_WORDS: &str = ". , : ? question answer a the of in is to and or what where who which how does do has as by it on \
    lives live home works work day days month months likes like eat best meal wears coat colour keeps keep pet friend called \
    echo hears answers repeat words there back walk say backwards shelf stand order put larger make they \
    basket lie count many are after before comes follows ahead";

/// Splits `text` at spaces into `N` words at compile time.
const fn words<const N: usize>(text: &'static str) -> [&'static str; N] {
    let (mut list, mut rest, mut place) = ([""; N], text, 0);
    while place < N {
        let mut end = 0;
        while end < rest.len() && rest.as_bytes()[end] != b' ' {
            end += 1;
        }
        assert!(end > 0, "fewer words than said");
        (list[place], rest) = rest.split_at(end);
        if !rest.is_empty() {
            rest = rest.split_at(1).1;
        }
        place += 1;
    }
    assert!(rest.is_empty(), "more words than said");
    list
}

/// All tokens in the order of their ids, special tokens first.
pub fn vocabulary() -> Vec<&'static str> {
    let lists: [&[&'static str]; 11] = [
        &SPECIAL, &PEOPLE, &TOWNS, &JOBS, &FOODS, &COLOURS, &PETS, &DAYS, &MONTHS, &UNITS, &TENS,
    ];
    lists
        .into_iter()
        .flatten()
        .copied()
        .chain(PLAIN_WORDS.split_whitespace())
        .collect()
}

/// `number` in words, below 100: `42` is "forty two".
pub fn number(number: usize) -> String {
    match (number / 10, number % 10) {
        (0 | 1, _) => UNITS[number].to_owned(),
        (tens, 0) => TENS[tens - 2].to_owned(),
        (tens, ones) => format!("{} {}", TENS[tens - 2], UNITS[ones]),
    }
}

/// `tokenizer.json`: one token per word between spaces, `<bos>` at the beginning. Decoding joins
/// words with spaces.
pub fn tokenizer_json() -> String {
    let words = vocabulary();
    let vocab: serde_json::Map<_, _> = words
        .iter()
        .zip(0..)
        .map(|(word, id)| ((*word).to_owned(), json!(id)))
        .collect();
    let added: Vec<_> = (SPECIAL.iter().zip(0..))
        .map(|(word, id)| {
            json!({"id": id, "content": word, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                   "special": true})
        })
        .collect();
    let bos = json!({"SpecialToken": {"id": "<bos>", "type_id": 0}});
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {"type": "TemplateProcessing", "single": [bos, text("A")], "pair": [bos, text("A"), text("B")],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [1], "tokens": ["<bos>"]}}},
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    });
    format!("{file:#}\n")
}

/// The `tokenizer_config.json` for [`tokenizer_json`].
pub fn tokenizer_config_json() -> String {
    let file = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": true, "add_eos_token": false,
        "pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>",
        "clean_up_tokenization_spaces": false, "model_max_length": 128,
    });
    format!("{file:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_one_id() {
        let words = vocabulary();
        let mut unique = words.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), words.len());
        assert!(words.len() <= 400 && words[..4] == SPECIAL);
        assert!(FOODS.is_sorted());
    }

    #[test]
    fn numbers_read_as_spoken() {
        assert_eq!(
            [0, 17, 40, 99].map(number),
            ["zero", "seventeen", "forty", "ninety nine"]
        );
    }

    #[test]
    fn tokenizer_files_are_json() {
        let file: serde_json::Value = serde_json::from_str(&tokenizer_json()).expect("valid JSON");
        assert_eq!(file["model"]["vocab"]["mira"], 4);
        let config: serde_json::Value =
            serde_json::from_str(&tokenizer_config_json()).expect("valid JSON");
        assert_eq!(config["add_bos_token"], true);
    }
}
