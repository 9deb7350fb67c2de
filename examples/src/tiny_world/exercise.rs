//! Small tasks that can be solved from their words alone: copying, reversing, sorting, counting and
//! the like.
//!
//! Each exercise has two forms with different wording: a sentence for pre-training, and a question
//! with its answer for fine-tuning.

use super::lexicon::{DAYS, FOODS, MONTHS, PEOPLE, number};
use super::random::{Random, hash};

/// A fact or task in both forms.
#[derive(Debug, Clone)]
pub struct Exercise {
    /// Identifies the exercise for the split: equal keys are on the same side.
    pub key: String,
    /// The sentence of the pre-training text.
    pub plain: String,
    pub ask: String,
    pub reply: String,
}

impl Exercise {
    /// One key in six is held out: never asked in training and, for tasks, not in the pre-training
    /// text.
    pub fn held_out(&self) -> bool {
        hash(&self.key).is_multiple_of(6)
    }
}

/// The sentence of a drawn exercise that is not held out.
pub fn shown(mut draw: impl FnMut() -> Exercise) -> String {
    loop {
        let exercise = draw();
        if !exercise.held_out() {
            return exercise.plain;
        }
    }
}

/// A task family: its name, and a function that draws an exercise.
pub type Task = (&'static str, fn(&mut Random) -> Exercise);

/// The families that need no facts. They are equally frequent in the pre-training text.
pub const TASKS: [Task; 8] = [
    ("copy", copy),
    ("larger", larger),
    ("next", next),
    ("add", add),
    ("count", count),
    ("reverse", reverse),
    ("sort", sort),
    ("follow", follow),
];

fn copy(random: &mut Random) -> Exercise {
    let list = words(random, 3, 5);
    Exercise {
        key: format!("copy {list}"),
        plain: format!("the echo hears {list} and answers {list} ."),
        ask: format!("repeat the words {list} ."),
        reply: format!("{list} ."),
    }
}

fn reverse(random: &mut Random) -> Exercise {
    let list = words(random, 3, 5);
    let back: Vec<&str> = list.rsplit(' ').collect();
    let back = back.join(" ");
    Exercise {
        key: format!("reverse {list}"),
        plain: format!("walk there by {list} and back by {back} ."),
        ask: format!("say backwards the words {list} ."),
        reply: format!("{back} ."),
    }
}

fn sort(random: &mut Random) -> Exercise {
    let list = words(random, 3, 3);
    let mut sorted: Vec<&str> = list.split(' ').collect();
    sorted.sort_unstable();
    let sorted = sorted.join(" ");
    Exercise {
        // The sorted words, so that all orders of a list are on the same side.
        key: format!("sort {sorted}"),
        plain: format!("on the shelf {list} stand in order as {sorted} ."),
        ask: format!("put in order the words {list} ."),
        reply: format!("{sorted} ."),
    }
}

fn larger(random: &mut Random) -> Exercise {
    let a = random.between(0, 20);
    let b = (a + random.between(1, 20)) % 21;
    let (large, small) = (a.max(b), a.min(b));
    Exercise {
        key: format!("larger {small} {large}"),
        plain: format!(
            "of {} and {} the larger is {} .",
            number(a),
            number(b),
            number(large)
        ),
        ask: format!("which is larger , {} or {} ?", number(a), number(b)),
        reply: format!("the larger is {} .", number(large)),
    }
}

fn add(random: &mut Random) -> Exercise {
    let (a, b) = (random.between(20, 89), random.between(1, 9));
    let (first, second, sum) = (number(a), number(b), number(a + b));
    Exercise {
        key: format!("add {a} {b}"),
        plain: format!("{first} and {second} make {sum} ."),
        ask: format!("what do {first} and {second} make ?"),
        reply: format!("they make {sum} ."),
    }
}

fn count(random: &mut Random) -> Exercise {
    let kinds = random.sample(&FOODS, 2);
    let length = random.between(3, 6);
    let list: Vec<&str> = (0..length).map(|_| *random.pick(&kinds)).collect();
    let (wanted, list) = (list[random.below(length)], list.join(" "));
    let found = number(list.split(' ').filter(|word| *word == wanted).count());
    Exercise {
        key: format!("count {list}"),
        plain: format!("in the basket lie {list} . the count of {wanted} is {found} ."),
        ask: format!("in the basket lie {list} . how many are {wanted} ?"),
        reply: format!("the count is {found} ."),
    }
}

fn next(random: &mut Random) -> Exercise {
    let (names, unit): (&[&str], _) = if random.below(2) == 0 {
        (&DAYS, "day")
    } else {
        (&MONTHS, "month")
    };
    let (from, steps) = (random.below(names.len()), random.between(1, 4));
    let (direction, to) = match random.below(2) {
        0 => ("after", from + steps),
        _ => ("before", from + names.len() - steps),
    };
    let to = names[to % names.len()];
    let span = format!(
        "{} {unit}{} {direction} {}",
        number(steps),
        if steps == 1 { "" } else { "s" },
        names[from]
    );
    Exercise {
        key: format!("next {span}"),
        plain: format!("{span} comes {to} ."),
        ask: format!("which {unit} is {span} ?"),
        reply: format!("it is {to} ."),
    }
}

/// People in a line, described out of order. Finding who is `n` ahead takes `n` hops between
/// sentences.
fn follow(random: &mut Random) -> Exercise {
    let line = random.sample(&PEOPLE, 4);
    let mut told: Vec<String> = line
        .windows(2)
        .map(|pair| format!("{} follows {} .", pair[0], pair[1]))
        .collect();
    random.shuffle(&mut told);
    let hops = random.between(1, 2);
    let from = random.below(line.len() - hops);
    let (told, hops, from, ahead) = (told.join(" "), number(hops), line[from], line[from + hops]);
    Exercise {
        key: format!("follow {told}"),
        plain: format!("{told} {hops} ahead of {from} is {ahead} ."),
        ask: format!("{told} who is {hops} ahead of {from} ?"),
        reply: format!("it is {ahead} ."),
    }
}

/// A list of `shortest` to `longest` different foods.
fn words(random: &mut Random, shortest: usize, longest: usize) -> String {
    let length = random.between(shortest, longest);
    random.sample(&FOODS, length).join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The number spelled by `words` ("forty two").
    fn value(words: &str) -> usize {
        (0..100).find(|&n| number(n) == words).unwrap()
    }

    /// The part of `text` after `before` and up to `until`.
    fn between<'a>(text: &'a str, before: &str, until: &str) -> &'a str {
        text.split_once(before)
            .and_then(|(_, rest)| rest.split_once(until))
            .unwrap()
            .0
    }

    /// Solves the question independently of the generator.
    fn worked_out(task: &str, ask: &str) -> String {
        let list = || between(ask, " words ", " .").split(' ');
        match task {
            "copy" => format!("{} .", list().collect::<Vec<_>>().join(" ")),
            "reverse" => format!("{} .", list().rev().collect::<Vec<_>>().join(" ")),
            "sort" => format!(
                "{} .",
                Vec::from_iter(list().collect::<BTreeSet<_>>()).join(" ")
            ),
            "larger" => {
                let (a, b) = (
                    value(between(ask, ", ", " or ")),
                    value(between(ask, " or ", " ?")),
                );
                format!("the larger is {} .", number(if a > b { a } else { b }))
            }
            "add" => {
                let (a, b) = (
                    between(ask, "what do ", " and "),
                    between(ask, " and ", " make"),
                );
                format!("they make {} .", number(value(a) + value(b)))
            }
            "count" => {
                let wanted = between(ask, "how many are ", " ?");
                let found = between(ask, "lie ", " .").matches(wanted).count();
                format!("the count is {} .", number(found))
            }
            "next" => {
                let mut ring = if ask.contains("month") {
                    MONTHS.to_vec()
                } else {
                    DAYS.to_vec()
                };
                if ask.contains(" before ") {
                    ring.reverse();
                }
                while !ask.contains(&format!("{} ?", ring[0])) {
                    ring.rotate_left(1);
                }
                let steps = between(ask, "is ", " ?")
                    .split(' ')
                    .next()
                    .map(value)
                    .unwrap();
                format!("it is {} .", ring[steps])
            }
            _ => {
                let mut who = between(ask, "ahead of ", " ?");
                for _ in 0..value(between(ask, "who is ", " ahead")) {
                    who = between(ask, &format!("{who} follows "), " .");
                }
                format!("it is {who} .")
            }
        }
    }

    #[test]
    fn every_answer_is_right_and_is_in_the_plain_sentence() {
        let random = &mut Random::new(1);
        for (task, draw) in TASKS {
            for _ in 0..500 {
                let exercise = draw(random);
                assert_eq!(
                    exercise.reply,
                    worked_out(task, &exercise.ask),
                    "{}",
                    exercise.ask
                );
                let answer = exercise.reply.split(' ').nth_back(1).unwrap();
                assert!(
                    exercise.plain.split(' ').any(|word| word == answer),
                    "{}",
                    exercise.plain
                );
            }
        }
    }

    #[test]
    fn held_out_exercises_are_never_shown() {
        let random = &mut Random::new(1);
        let held_out: Vec<String> = (0..5000)
            .flat_map(|_| TASKS.map(|(_, draw)| draw(random)))
            .filter_map(|exercise| exercise.held_out().then_some(exercise.plain))
            .collect();
        assert!((5000..9000).contains(&held_out.len()));
        let held_out = BTreeSet::from_iter(held_out);
        for _ in 0..5000 {
            assert!(!held_out.contains(&shown(|| random.pick(&TASKS).1(random))));
        }
    }
}
