//! What is rewritten in a template before it is compiled.
//!
//! Knows the two places where transformers' templates have syntax of their own: the tags
//! `{% generation %}`, and tuples, which minijinja reads as lists.
//!
//! Source: `AssistantTracker` of transformers' `chat_template_utils.py`.

use minijinja::machinery::{Token, WhitespaceConfig, tokenize};

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
    tags(source).any(|(_, name)| name == "generation")
}

/// The tags of a template: text before, and the tag's name or whole content.
fn tags(source: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = source;
    std::iter::from_fn(move || {
        let start = rest.find("{%")?;
        let tag = &rest[start..];
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        rest = &tag[end..];
        let tag = &tag[..end];
        let name = tag.trim_matches(|c: char| "{}%-+".contains(c) || c.is_whitespace());
        Some((tag, name))
    })
}

/// `generation` and `endgeneration`, which print nothing, as a scope with a filter.
fn with_generation_filters(source: &str) -> String {
    let mut rewritten = String::with_capacity(source.len());
    let mut rest = source;
    for (tag, name) in tags(source) {
        let (before, from_tag) = rest.split_at(rest.find("{%").unwrap_or(rest.len()));
        rewritten += before;
        let (open, close) = tag.split_once(name).unwrap_or((tag, ""));
        rewritten += &match name {
            "generation" => format!("{open}with %}}{{% filter {MARK}{close}"),
            "endgeneration" => format!("{open}endfilter %}}{{% endwith{close}"),
            _ => tag.to_owned(),
        };
        rest = &from_tag[tag.len()..];
    }
    rewritten + rest
}

/// `(a, b)` as `__tuple(a, b)`. A template that is not Jinja is left for the compiler to refuse.
fn with_tuples(source: &str) -> String {
    let tokens = tokenize(source, false, Default::default(), WHITESPACE);
    let Ok(tokens) = tokens.collect::<Result<Vec<_>, _>>() else {
        return source.to_owned();
    };
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
        let other = "{{ generation }}{% set generation = 1 %}{% x %}{%";
        assert_eq!(with_generation_filters(other), other);
        assert!(!has_generation_tags(other));
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
