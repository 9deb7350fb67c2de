//! Templates that run or grow without bound are rejected.

use std::time::Instant;

use super::super::run::render_plain;

fn refusal(template: &str) -> String {
    let started = Instant::now();
    let error = render_plain(template).expect_err(template);
    // Not a performance test: templates must be rejected within a minute.
    assert!(started.elapsed().as_secs() < 60, "{template}");
    error.to_string()
}

#[test]
fn loops_end() {
    let forever = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(refusal(forever).contains("recursion limit"));
    let long = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}";
    assert!(refusal(long).contains("fuel"));
}

#[test]
fn texts_and_lists_do_not_explode() {
    let grow = |step: &str| {
        format!(
            "{{% set n = namespace(s='abcd') %}}{{% for i in range(60) %}}{step}{{% endfor %}}{{{{ n.s|length }}}}"
        )
    };
    for step in [
        "{% set n.s = n.s ~ n.s %}",
        "{% set n.s = n.s + n.s %}",
        "{% set n.s = n.s * 2 %}",
        "{% set n.s = '%s%s' % (n.s, n.s) %}",
        "{% set n.s = n.s|replace('a', 'aaaa') %}",
        "{% set n.s = n.s.replace('a', 'aaaa') %}",
        "{% set n.s = [n.s, n.s]|join %}",
        "{% set n.s = '{}{}'.format(n.s, n.s) %}",
        "{% set t %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = t %}",
        "{% set n.s = [n.s, n.s] %}{% set t = n.s|tojson %}",
        "{% set n.s = [n.s, n.s] %}{% set t = n.s ~ '' %}",
        "{% set n.s = [n.s, n.s] %}{% set t = n.s|upper %}",
        "{% set n.s = [n.s, n.s] %}{% set t = n.s|sort %}",
        "{% set n.s = [n.s, n.s] %}{% set t = '%s' % n.s %}",
        "{% set n.s = [n.s, n.s] %}{% set t = '{}'.format(n.s) %}",
        "{% set n.s = [n.s, n.s] %}{% set t = [n.s]|map('string')|list %}",
    ] {
        assert!(refusal(&grow(step)).contains("takes too much"), "{step}");
    }
    for template in [
        "{{ ([1] * 4000000000)|length }}",
        "{% set l = [1] %}{{ (l * 4000000000)|list }}",
        "{{ '%1000000000d'|format(1) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d'|format(1000000000, 1) }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ 'a'|indent(1000000000, true) }}",
        "{{ 'a'|indent(width=1000000000, first=true) }}",
        "{{ ('a' * 99999999)|length }}",
        "{{ [1]|batch(1000000000, 0)|list }}",
        "{{ ('a' * 16000000)|list|length }}",
        "{{ ('a ' * 200000).split()|length }}",
        "{% set n = namespace(l=[]) %}{% for i in range(600) %}{% set n.l = [([1] * 100000)|list, n.l] %}{% endfor %}",
    ] {
        assert!(refusal(template).contains("takes too much"), "{template}");
    }
    assert!(refusal("{{ [1]|tojson(indent=10000000000) }}").contains("at most 1000"));
    // Repeated literal text.
    let raw = "a".repeat(1_000_000);
    let raw = format!("{{% for i in range(2000) %}}{raw}{{% endfor %}}");
    assert!(refusal(&raw).contains("fuel"));
    assert!(refusal("{{ debug() }}").contains("debug is unknown"));
}

#[test]
fn deep_nesting_is_no_overflow() {
    let nest =
        "{% set n = namespace(l=[]) %}{% for i in range(99999) %}{% set n.l = [n.l] %}{% endfor %}";
    assert_eq!(render_plain(nest).unwrap(), "");
    for end in ["{{ n.l }}", "{{ n.l|tojson }}", "{{ n.l ~ '' }}"] {
        let error = refusal(&format!("{nest}{end}"));
        assert!(error.contains("nested more than"), "{error}");
    }
    let parentheses = format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000));
    assert!(render_plain(&parentheses).is_err());
    let blocks = format!(
        "{}{}",
        "{% if 1 %}".repeat(5000),
        "{% endif %}".repeat(5000)
    );
    assert!(render_plain(&blocks).is_err());
}

#[test]
fn ordinary_templates_are_within_the_limits() {
    let template = "{% set n = namespace(s='') %}{% for i in range(2000) %}{% set n.s = n.s + 'word ' ~ i %}{% endfor %}{{ n.s|length }}";
    assert_eq!(render_plain(template).unwrap(), "16890");
    assert_eq!(
        render_plain("{{ 1000000 + 1 }}{{ 'abc'[1:] }}{{ [1, 2][::-1] }}").unwrap(),
        "1000001bc[2, 1]"
    );
    assert_eq!(
        render_plain(
            "{{ 250000|string }}{{ 250000|tojson }}{{ '%d' % 250000 }}{{ [250000]|join }}"
        )
        .unwrap(),
        "250000".repeat(4)
    );
}
