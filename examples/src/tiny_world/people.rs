//! The people of a world, and sentences and questions about them.
//!
//! A fact has two wordings as a sentence and a third as a question. Questions about "the friend of
//! mira" take two hops.

use super::exercise::{Exercise, shown};
use super::lexicon::{COLOURS, FOODS, JOBS, PEOPLE, PETS, TOWNS};
use super::random::Random;

/// A kind of fact. In the wordings, `{p}` is the person and `{v}` the value.
struct Attribute {
    values: &'static [&'static str],
    plain: [&'static str; 2],
    ask: &'static str,
}

const fn attribute(
    values: &'static [&'static str],
    plain: [&'static str; 2],
    ask: &'static str,
) -> Attribute {
    Attribute { values, plain, ask }
}

const ATTRIBUTES: [Attribute; 6] = [
    attribute(
        &TOWNS,
        ["{p} lives in {v} .", "the home of {p} is {v} ."],
        "where does {p} live ?",
    ),
    attribute(
        &JOBS,
        ["{p} works as a {v} .", "by day {p} is a {v} ."],
        "what is the work of {p} ?",
    ),
    attribute(
        &FOODS,
        ["{p} likes to eat {v} .", "the best meal of {p} is {v} ."],
        "what does {p} like to eat ?",
    ),
    attribute(
        &COLOURS,
        ["{p} wears a {v} coat .", "the coat of {p} is {v} ."],
        "which colour is the coat of {p} ?",
    ),
    attribute(
        &PETS,
        ["{p} keeps a {v} .", "the pet of {p} is a {v} ."],
        "which pet does {p} keep ?",
    ),
    attribute(
        &PEOPLE,
        [
            "{p} has a friend called {v} .",
            "the friend of {p} is {v} .",
        ],
        "who is the friend of {p} ?",
    ),
];
/// The last attribute, whose value is a person.
const FRIEND: usize = 5;

/// For each person, the index of each attribute's value in its list.
#[derive(Debug, Clone)]
pub struct People(Vec<[usize; ATTRIBUTES.len()]>);

impl People {
    pub fn new(random: &mut Random) -> Self {
        let mut facts = vec![[0; ATTRIBUTES.len()]; PEOPLE.len()];
        for (kind, attribute) in ATTRIBUTES.iter().enumerate() {
            // Values are dealt evenly, so that all are used about equally often.
            let mut cards: Vec<usize> = (0..facts.len())
                .map(|card| card % attribute.values.len())
                .collect();
            random.shuffle(&mut cards);
            facts
                .iter_mut()
                .zip(cards)
                .for_each(|(person, card)| person[kind] = card);
        }
        // Friends form a ring, so that no one is their own friend and everyone is the friend of one
        // person.
        let mut ring: Vec<usize> = (0..facts.len()).collect();
        random.shuffle(&mut ring);
        for (place, &person) in ring.iter().enumerate() {
            facts[person][FRIEND] = ring[(place + 1) % ring.len()];
        }
        Self(facts)
    }

    /// A fact about a person.
    pub fn recall(&self, random: &mut Random) -> Exercise {
        let (person, kind) = self.topic(random);
        self.fact(person, kind, [PEOPLE[person]; 3], random)
    }

    /// A fact about the friend of a person, who is not named: two hops.
    pub fn friend(&self, random: &mut Random) -> Exercise {
        let (person, kind) = self.topic(random);
        let subject = format!("the friend of {}", PEOPLE[person]);
        self.fact(
            self.0[person][FRIEND],
            kind,
            [&subject, &subject, "the friend"],
            random,
        )
    }

    /// All facts about one person, in random order and wording.
    pub fn portrait(&self, random: &mut Random) -> Vec<String> {
        let (person, _) = self.topic(random);
        let mut kinds: Vec<usize> = (0..ATTRIBUTES.len()).collect();
        random.shuffle(&mut kinds);
        kinds
            .into_iter()
            .map(|kind| self.fact(person, kind, [PEOPLE[person]; 3], random).plain)
            .collect()
    }

    /// A sentence about the friend of a person: named with any fact, or unnamed with a fact that is
    /// not held out.
    pub fn gossip(&self, random: &mut Random) -> String {
        if random.below(2) == 0 {
            return shown(|| self.friend(random));
        }
        let (person, kind) = self.topic(random);
        let friend = self.0[person][FRIEND];
        let subject = format!("{} , the friend of {} ,", PEOPLE[friend], PEOPLE[person]);
        self.fact(friend, kind, [&subject; 3], random).plain
    }

    fn topic(&self, random: &mut Random) -> (usize, usize) {
        (random.below(self.0.len()), random.below(ATTRIBUTES.len()))
    }

    /// The fact of this `kind` about `person`, with the names of the person in text, question and
    /// answer.
    fn fact(&self, person: usize, kind: usize, names: [&str; 3], random: &mut Random) -> Exercise {
        let attribute = &ATTRIBUTES[kind];
        let value = attribute.values[self.0[person][kind]];
        let say = |wording: &str, name: &str| wording.replace("{p}", name).replace("{v}", value);
        let ask = say(attribute.ask, names[1]);
        let plain = say(
            attribute.plain[random.below(attribute.plain.len())],
            names[0],
        );
        Exercise {
            key: ask.clone(),
            plain,
            ask,
            reply: say(attribute.plain[0], names[2]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_reached_through_friends() {
        let people = People::new(&mut Random::new(7));
        let (mut person, mut met) = (0, vec![]);
        while !met.contains(&person) {
            met.push(person);
            person = people.0[person][FRIEND];
        }
        assert_eq!(met.len(), PEOPLE.len());
    }

    #[test]
    fn answers_agree_with_the_portraits() {
        let people = People::new(&mut Random::new(7));
        let random = &mut Random::new(1);
        let told: Vec<String> = (0..2000).flat_map(|_| people.portrait(random)).collect();
        for _ in 0..500 {
            let asked = people.recall(random);
            assert!(told.contains(&asked.reply), "{asked:?}");

            let asked = people.friend(random);
            let of = asked
                .ask
                .split("the friend of ")
                .last()
                .and_then(|rest| rest.split(' ').next())
                .unwrap();
            let is_friend = format!("the friend of {of} is ");
            let friend = told
                .iter()
                .find_map(|line| line.strip_prefix(&is_friend))
                .unwrap()
                .replace(" .", "");
            assert!(
                told.contains(&asked.reply.replace("the friend", &friend)),
                "{asked:?}"
            );
        }
    }
}
