//! Rewrites template syntax that minijinja lacks: `{% generation %}` tags, and tuples, which it
//! reads as lists.
//!
//! Source: `AssistantTracker` of transformers' `chat_template_utils.py`.

use minijinja::machinery::{Span, Token, WhitespaceConfig, tokenize};

/// Noncharacters around generated text in a rendering. Messages must not contain them.
pub(super) const MARKS: [char; 2] = ['\u{FDD0}', '\u{FDD1}'];

/// Name of the filter that puts [`MARKS`] around a text.
pub(super) const MARK: &str = "__generation";

/// Name of the function that creates a tuple.
pub(super) const TUPLE: &str = "__tuple";

/// White space settings of transformers.
pub(super) const WHITESPACE: WhitespaceConfig = WhitespaceConfig {
    keep_trailing_newline: false,
    lstrip_blocks: true,
    trim_blocks: true,
};

/// Rewrites a template for minijinja.
pub(super) fn prepared(source: &str) -> String {
    with_tuples(&with_generation_filters(source))
}

pub(super) fn has_generation_tags(source: &str) -> bool {
    let tags = generation_tags(source);
    tags.iter().any(|(_, name)| *name == START)
}

/// Length of the longest literal text, in bytes.
pub(super) fn longest_raw(source: &str) -> usize {
    let tokens = tokens(source).into_iter();
    let lengths = tokens.map(|(token, _)| match token {
        Token::TemplateData(raw) => raw.len(),
        _ => 0,
    });
    lengths.max().unwrap_or(0)
}

/// The tokens of a template. Empty if it is malformed, which the compiler reports later.
fn tokens(source: &str) -> Vec<(Token<'_>, Span)> {
    let tokens = tokenize(source, false, Default::default(), WHITESPACE);
    tokens.collect::<Result<_, _>>().unwrap_or_default()
}

const START: &str = "generation";
const END: &str = "endgeneration";

/// Byte offsets of the names in `generation` and `endgeneration` tags.
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

/// Replaces `generation` tags, which print nothing, with a scope and a filter.
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

/// Rewrites `(a, b)` as `__tuple(a, b)`.
fn with_tuples(source: &str) -> String {
    let tokens = tokens(source);
    /// An open bracket; `group` is the offset where a tuple would begin.
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

/// Whether a parenthesis after this token groups an expression; otherwise it is a call or a target.
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
