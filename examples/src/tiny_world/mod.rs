//! An invented world to pre-train a small language model on. It has 24 people, each with a home, a
//! job, a best meal, a coat, a pet and a friend, and eight small tasks such as copying, sorting and
//! adding. The seed determines the facts and the texts.
//!
//! The pre-training text states facts and shows solved tasks as sentences. The instructions ask
//! about the same things in other words, in a question format that the text does not have. Held-out
//! *facts* are in the text, but not in the training instructions; the operands of held-out *tasks*
//! are in neither. Some families are easy (recall a fact, copy), others need several steps (a fact
//! about a friend, who is two ahead), so that sub-models of different depth differ in quality. The
//! world is not based on a published data set.

mod exercise;
mod lexicon;
mod people;
mod random;

use std::collections::HashSet;

use exercise::{Exercise, TASKS, shown};
pub use lexicon::{tokenizer_config_json, tokenizer_json, vocabulary};
use people::People;
use random::{Random, hash};

/// Maximum number of words of a document, without `<bos>` and `<eos>`.
pub const DOCUMENT_WORDS: usize = 64;

/// A part of the instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// For fine-tuning.
    Train,
    /// For evaluation.
    HeldOut,
}

impl Split {
    /// Maximum number of instructions of a family.
    fn quota(self) -> usize {
        match self {
            Split::Train => 220,
            Split::HeldOut => 30,
        }
    }
}

/// A prompt and the expected response, both of words separated by single spaces. The response is to
/// be followed by `<eos>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Name of the family, one of [`TASK_NAMES`].
    pub task: &'static str,
    /// "question : where does mira live ? answer :"
    pub prompt: String,
    /// "mira lives in lindel ."
    pub response: String,
}

/// The families of instructions, in the order of tables.
pub const TASK_NAMES: [&str; 10] = [
    "recall", "friend", "copy", "larger", "next", "add", "count", "reverse", "sort", "follow",
];

/// The world of one seed. Vocabulary and split are the same in all worlds, the facts are not.
#[derive(Debug, Clone)]
pub struct World {
    seed: u64,
    people: People,
}

impl World {
    /// The world of this seed.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            people: People::new(&mut Random::new(seed)),
        }
    }

    /// `documents` lines of at most [`DOCUMENT_WORDS`] words each. For the same seed, a longer text
    /// starts with the shorter one.
    pub fn pretraining_text(&self, documents: usize, seed: u64) -> Vec<String> {
        (0..documents)
            .map(|index| self.document(&mut Random::stream(seed, index as u64)))
            .collect()
    }

    /// The instructions of one side of the split, in a fixed random order. No prompt occurs twice
    /// or on both sides.
    pub fn instructions(&self, split: Split) -> Vec<Instruction> {
        let mut all = Vec::new();
        for (task, draw) in self.families() {
            let random = &mut Random::stream(self.seed, hash(task));
            let (mut seen, enough) = (HashSet::new(), all.len() + split.quota());
            // Small families have fewer than their quota. This many draws find all of them.
            for _ in 0..20_000 {
                if all.len() == enough {
                    break;
                }
                let exercise = draw(random);
                let wanted = exercise.held_out() == (split == Split::HeldOut);
                if wanted && seen.insert(exercise.ask.clone()) {
                    let prompt = format!("question : {} answer :", exercise.ask);
                    all.push(Instruction {
                        task,
                        prompt,
                        response: exercise.reply,
                    });
                }
            }
        }
        Random::new(self.seed).shuffle(&mut all);
        all
    }

    fn families(&self) -> Vec<(&'static str, Draw<'_>)> {
        let mut all: Vec<(_, Draw<'_>)> = vec![
            ("recall", Box::new(|random| self.people.recall(random))),
            ("friend", Box::new(|random| self.people.friend(random))),
        ];
        all.extend(TASKS.map(|(name, draw)| (name, Box::new(draw) as Draw<'_>)));
        all
    }

    /// A description of one person and then sentences about friends, or tasks: as many sentences as
    /// fit.
    fn document(&self, random: &mut Random) -> String {
        let lessons = random.below(5) < 3;
        let mut portrait = self.people.portrait(random).into_iter();
        let (mut text, mut room) = (Vec::new(), DOCUMENT_WORDS);
        loop {
            let sentence = if lessons {
                shown(|| random.pick(&TASKS).1(random))
            } else {
                portrait
                    .next()
                    .unwrap_or_else(|| self.people.gossip(random))
            };
            let length = sentence.split(' ').count();
            if length > room {
                return text.join(" ");
            }
            room -= length;
            text.push(sentence);
        }
    }
}

type Draw<'a> = Box<dyn Fn(&mut Random) -> Exercise + 'a>;

#[cfg(test)]
mod tests {
    use super::*;

    const SPLITS: [Split; 2] = [Split::Train, Split::HeldOut];

    #[test]
    fn same_seed_same_words() {
        let (one, two) = (World::new(7), World::new(7));
        assert_eq!(
            SPLITS.map(|split| one.instructions(split)),
            SPLITS.map(|split| two.instructions(split))
        );
        assert_eq!(
            one.pretraining_text(20, 1),
            two.pretraining_text(30, 1)[..20]
        );
        assert_ne!(one.pretraining_text(20, 1), one.pretraining_text(20, 2));
        // The committed model was trained on the texts with these hashes.
        let asked = one
            .instructions(Split::HeldOut)
            .into_iter()
            .map(|i| i.prompt + &i.response);
        let said = [one.pretraining_text(1000, 1).concat(), asked.collect()];
        assert_eq!(
            said.map(|text| hash(&text)),
            [12_559_900_971_341_881_023, 1_842_537_446_178_237_906]
        );
    }

    #[test]
    fn splits_share_no_prompt_and_have_all_families() {
        let world = World::new(7);
        let [train, held_out] = SPLITS.map(|split| world.instructions(split));
        let prompts: HashSet<_> = train.iter().chain(&held_out).map(|i| &i.prompt).collect();
        assert_eq!(prompts.len(), train.len() + held_out.len());
        for task in TASK_NAMES {
            let count = |all: &[Instruction]| all.iter().filter(|i| i.task == task).count();
            assert!((100..=220).contains(&count(&train)), "{task}");
            assert!((20..=30).contains(&count(&held_out)), "{task}");
        }
        assert!(
            train
                .iter()
                .all(|i| (1..=8).contains(&i.response.split(' ').count()))
        );
    }

    #[test]
    fn documents_are_short_and_use_the_vocabulary() {
        let (world, known) = (World::new(7), HashSet::from_iter(vocabulary()));
        let mut lines = world.pretraining_text(2000, 1);
        assert!(
            lines
                .iter()
                .all(|line| (40..=DOCUMENT_WORDS).contains(&line.split(' ').count()))
        );
        lines.extend(
            SPLITS
                .map(|split| world.instructions(split))
                .concat()
                .into_iter()
                .map(|i| i.prompt + " " + &i.response),
        );
        let used: HashSet<&str> = lines
            .iter()
            .flat_map(|line| line.split(' '))
            .chain(lexicon::SPECIAL)
            .collect();
        assert_eq!(used, known);
    }
}
