//! Random changes of bytes and JSON, as in damaged, hostile and hand-edited files.

use serde_json::{Map, Value, json};

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is above 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// A file's bytes with one to three changes. JSON is mostly changed as JSON, which gets further
/// than broken syntax.
pub fn mutated(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    if random.below(4) > 0
        && let Some(text) = std::str::from_utf8(bytes)
            .ok()
            .filter(|text| looks_like_json(text))
    {
        return mutated_json(text, random);
    }
    let mut changed = bytes.to_vec();
    for _ in 0..=random.below(3) {
        mutate_bytes(&mut changed, random);
    }
    changed
}

fn looks_like_json(text: &str) -> bool {
    text.trim_start().starts_with(['{', '['])
}

fn mutate_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    let length = bytes.len();
    let at = random.below(length + 1);
    let span = random.below(64).min(length - at);
    match random.below(7) {
        0 if at < length => bytes[at] ^= 1 << random.below(8),
        1 => drop(bytes.drain(at..at + span)),
        2 => {
            let copy = bytes[at..at + span].to_vec();
            let to = random.below(length + 1);
            bytes.splice(to..to, copy);
        }
        3 => bytes.truncate(at),
        4 => {
            let word = *random.pick(&WORDS);
            bytes.splice(at..at, word.bytes());
        }
        5 => bytes
            .splice(at..at, (0..8).map(|_| random.next() as u8))
            .for_each(drop),
        _ => {
            // A little-endian length, as at the beginning of many file formats.
            let number = *random.pick(&[0_u64, 1, 1 << 20, 1 << 32, u64::MAX]);
            for (place, byte) in bytes.iter_mut().zip(number.to_le_bytes()) {
                *place = byte;
            }
        }
    }
}

const WORDS: [&str; 14] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    "null",
    "NaN",
    "-1",
    "1e999",
    "\u{1b}[31m",
    "\u{fdd0}",
    "{{ x }}",
    "{% for a in b %}",
    "<|im_end|>",
];

/// Changes values in JSON or JSON lines.
fn mutated_json(text: &str, random: &mut Random) -> Vec<u8> {
    if let Ok(mut value) = serde_json::from_str::<Value>(text) {
        for _ in 0..=random.below(2) {
            mutate_value(&mut value, random);
        }
        return value.to_string().into_bytes();
    }
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let at = random.below(lines.len().max(1));
    if let Some(line) = lines.get_mut(at)
        && let Ok(mut value) = serde_json::from_str::<Value>(line)
    {
        mutate_value(&mut value, random);
        *line = value.to_string();
    }
    match random.below(4) {
        0 => lines.insert(at, "[1, 2]".to_owned()),
        1 if !lines.is_empty() => drop(lines.remove(at)),
        _ => {}
    }
    (lines.join("\n") + "\n").into_bytes()
}

fn mutate_value(value: &mut Value, random: &mut Random) {
    // Descends to a random place, with a probability of 2/3 per level.
    if random.below(3) > 0 {
        match value {
            Value::Array(items) if !items.is_empty() => {
                let at = random.below(items.len());
                return mutate_value(&mut items[at], random);
            }
            Value::Object(entries) if !entries.is_empty() => {
                let at = random.below(entries.len());
                if let Some(entry) = entries.values_mut().nth(at) {
                    return mutate_value(entry, random);
                }
            }
            _ => {}
        }
    }
    match value {
        Value::Object(entries) if random.below(2) == 0 => mutate_entries(entries, random),
        Value::Array(items) if random.below(2) == 0 && !items.is_empty() => {
            let at = random.below(items.len());
            match random.below(3) {
                0 => drop(items.remove(at)),
                1 => items.insert(at, strange(random)),
                _ => items.push(items[at].clone()),
            }
        }
        Value::String(text) if random.below(2) == 0 => {
            let mut bytes = text.clone().into_bytes();
            mutate_bytes(&mut bytes, random);
            *text = String::from_utf8_lossy(&bytes).into_owned();
        }
        Value::Number(number) if random.below(2) == 0 => {
            let number = number.as_f64().unwrap_or(0.0);
            let changed = *random.pick(&[
                number + 1.0,
                number - 1.0,
                -number,
                number * 1e6,
                number / 3.0,
            ]);
            *value = if changed.fract() == 0.0 && changed.abs() < 1e15 {
                json!(changed as i64)
            } else {
                json!(changed)
            };
        }
        value => *value = strange(random),
    }
}

fn mutate_entries(entries: &mut Map<String, Value>, random: &mut Random) {
    let keys: Vec<String> = entries.keys().cloned().collect();
    if keys.is_empty() {
        return;
    }
    let (one, other) = (random.pick(&keys).clone(), random.pick(&keys).clone());
    match random.below(3) {
        0 => drop(entries.shift_remove(&one)),
        1 => {
            let value = entries.get(&other).cloned().unwrap_or_default();
            entries.insert(one, value);
        }
        _ => drop(entries.insert(one, strange(random))),
    }
}

fn strange(random: &mut Random) -> Value {
    let long = "x".repeat(random.below(5000));
    let digits: Value = serde_json::from_str(&"9".repeat(300)).unwrap_or(json!(1e300));
    let nested = (0..100).fold(Value::Null, |inner, _| json!([inner]));
    let all = [
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(1),
        json!(0.5),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(4_294_967_296_u64),
        json!(1e308),
        digits,
        json!(""),
        json!("\u{0}"),
        json!("</s>"),
        json!("../../etc/passwd"),
        json!(long),
        json!([]),
        json!({}),
        json!([1, "a", null]),
        json!({"a": {"b": []}}),
        nested,
    ];
    random.pick(&all).clone()
}
