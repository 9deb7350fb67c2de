//! What is rewritten in a template before it is compiled.
//!
//! Knows the two places where transformers' templates have syntax of their own: the tags
//! `{% generation %}`, and tuples, which minijinja reads as lists.
//!
//! Source: `AssistantTracker` of transformers' `chat_template_utils.py`.

use minijinja::machinery::{Span, Token, WhitespaceConfig, tokenize};

/// The characters around what the assistant generates, in what is rendered. They are
/// noncharacters, which messages must not hold.
pub(super) const MARKS: [char; 2] = ['\u{FDD0}', '\u{FDD1}'];

/// The filter that puts [`MARKS`] around a text.
pub(super) const MARK: &str = "__generation";

/// The function that makes a tuple.
pub(super) const TUPLE: &str = "__tuple";

/// How transformers reads white space around tags.
pub(super) const WHITESPACE: WhitespaceConfig = WhitespaceConfig {
    keep_trailing_newline: false,
    lstrip_blocks: true,
    trim_blocks: true,
};

/// The template as minijinja takes it.
pub(super) fn prepared(source: &str) -> String {
    with_tuples(&with_generation_filters(source))
}

/// Whether the template says what the assistant generates.
pub(super) fn has_generation_tags(source: &str) -> bool {
    let tags = generation_tags(source);
    tags.iter().any(|(_, name)| *name == START)
}

/// Bytes of the longest text between tags.
pub(super) fn longest_raw(source: &str) -> usize {
    let tokens = tokens(source).into_iter();
    let lengths = tokens.map(|(token, _)| match token {
        Token::TemplateData(raw) => raw.len(),
        _ => 0,
    });
    lengths.max().unwrap_or(0)
}

/// The tokens of a template. One that is not Jinja has none, and is left for the compiler to
/// refuse.
fn tokens(source: &str) -> Vec<(Token<'_>, Span)> {
    let tokens = tokenize(source, false, Default::default(), WHITESPACE);
    tokens.collect::<Result<_, _>>().unwrap_or_default()
}

const START: &str = "generation";
const END: &str = "endgeneration";

/// Where the words of the tags `generation` and `endgeneration` begin.
fn generation_tags(source: &str) -> Vec<(usize, &'static str)> {
    let tokens = tokens(source);
    let tags = tokens.windows(3).filter_map(|three| {
        let [
            (Token::BlockStart, _),
            (Token::Ident(word), span),
            (Token::BlockEnd, _),
        ] = three
        else {
            return None;
        };
        let name = [START, END].into_iter().find(|name| name == word)?;
        Some((span.start_offset as usize, name))
    });
    tags.collect()
}

/// `generation` and `endgeneration`, which print nothing, as a scope with a filter.
fn with_generation_filters(source: &str) -> String {
    let mut rewritten = String::with_capacity(source.len());
    let mut done = 0;
    for (start, name) in generation_tags(source) {
        rewritten += &source[done..start];
        rewritten += &match name {
            START => format!("with %}}{{% filter {MARK}"),
            _ => "endfilter %}{% endwith".to_owned(),
        };
        done = start + name.len();
    }
    rewritten + &source[done..]
}

/// `(a, b)` as `__tuple(a, b)`.
fn with_tuples(source: &str) -> String {
    let tokens = tokens(source);
    /// An opening bracket, and where a tuple would begin.
    struct Open {
        group: Option<usize>,
        is_tuple: bool,
    }
    let mut open: Vec<Open> = Vec::new();
    let mut starts = Vec::new();
    let mut groups = true;
    for (token, span) in &tokens {
        match token {
            Token::ParenOpen => open.push(Open {
                group: groups.then_some(span.start_offset as usize),
                is_tuple: false,
            }),
            Token::BracketOpen | Token::BraceOpen => open.push(Open {
                group: None,
                is_tuple: false,
            }),
            Token::Comma => {
                if let Some(open) = open.last_mut() {
                    open.is_tuple = true;
                }
            }
            Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                let closed = open.pop().filter(|it| it.is_tuple);
                starts.extend(closed.and_then(|it| it.group));
            }
            _ => {}
        }
        groups = opens_group(token);
    }
    starts.sort_unstable();
    let mut rewritten = source.to_owned();
    for start in starts.into_iter().rev() {
        rewritten.insert_str(start, TUPLE);
    }
    rewritten
}

/// Whether a parenthesis behind this token groups an expression: elsewhere it calls, or holds the
/// names that a tag sets.
fn opens_group(token: &Token) -> bool {
    match token {
        Token::Ident(word) => ["in", "not", "and", "or", "if", "elif", "else", "is"].contains(word),
        Token::ParenClose | Token::BracketClose | Token::BraceClose => false,
        Token::Str(_) | Token::String(_) | Token::TemplateData(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_are_a_scope_with_a_filter() {
        let template = "a{%- generation -%}\nb{% endgeneration %}c";
        let wanted = "a{%- with %}{% filter __generation -%}\nb{% endfilter %}{% endwith %}c";
        assert_eq!(with_generation_filters(template), wanted);
        assert!(has_generation_tags(template));
        for other in [
            "{{ generation }}{% set generation = 1 %}{% x %}",
            "{# {% generation %} #}{% raw %}{% generation %}{% endraw %}",
        ] {
            assert_eq!(with_generation_filters(other), other);
            assert!(!has_generation_tags(other));
        }
    }

    #[test]
    fn tuples_are_told_from_calls_and_groups() {
        for (source, wanted) in [
            ("{{ (1, 2) }}", "{{ __tuple(1, 2) }}"),
            ("{{ f(1, (2,)) }}", "{{ f(1, __tuple(2,)) }}"),
            ("{{ (f(1, 2)) }}", "{{ (f(1, 2)) }}"),
            ("{{ ([1, 2]) ~ (a) }}", "{{ ([1, 2]) ~ (a) }}"),
            (
                "{% for (a, b) in ((1, 2), (3, 4)) %}{% endfor %}",
                "{% for (a, b) in __tuple(__tuple(1, 2), __tuple(3, 4)) %}{% endfor %}",
            ),
            (
                "(a, b){# (c, d) #}{{ x|f (1, 2) }}",
                "(a, b){# (c, d) #}{{ x|f (1, 2) }}",
            ),
            ("{{ ('a }}", "{{ ('a }}"),
        ] {
            assert_eq!(with_tuples(source), wanted);
        }
    }
}
