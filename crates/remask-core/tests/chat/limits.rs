//! No template takes the program down: those that would are refused, by the name of their file.

use remask_core::Result;
use serde_json::json;

use super::{refusal, render, template, text};

#[test]
fn templates_that_do_not_end() {
    for source in [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% for x in [[[1]]] recursive %}{{ loop([x]) }}{% endfor %}",
        "{% for i in range(99999) %}{% set x = (messages * 9999)|length %}{% endfor %}",
        "{% for i in range(99999) %}{{ ('a' * 9999999) in ('b' * 9999999) }}{% endfor %}",
        "{% for i in range(99999) %}{% set x = range(99999)|list == range(99999)|list %}{% endfor %}",
    ] {
        let refused = refusal(source);
        assert!(refused.starts_with("m/chat_template.jinja: chat template: line 1: "), "{source}: {refused}");
    }
}

#[test]
fn templates_that_fill_the_memory() {
    let sources = [
        "{{ 'x' * 999999999999 }}".to_owned(),
        "{{ 'x' * 9223372036854775807 }}".to_owned(),
        "{{ [1] * 999999999999 }}".to_owned(),
        "{{ messages[0].content.ljust(999999999999) }}".to_owned(),
        "{{ 'x'.zfill(9223372036854775807) }}".to_owned(),
        "{{ '%999999999999s' % 'x' }}".to_owned(),
        "{{ '%*d' % (999999999999, 1) }}".to_owned(),
        "{{ '{:>99999999999}'.format('x') }}".to_owned(),
        "{{ '{:.9999999999f}'.format(1.5) }}".to_owned(),
        "{{ '\\t'.expandtabs(999999999999) }}".to_owned(),
        "{{ range(999999999) }}".to_owned(),
        "{{ range(-9223372036854775807, 9223372036854775807, 1) }}".to_owned(),
        "{{ 'x'|center(999999999999) }}".to_owned(),
        "{{ 'x'|indent(999999999999, true) }}".to_owned(),
        "{{ [1]|batch(99999999999, 0)|list }}".to_owned(),
        "{{ [1]|tojson(indent=999999999999) }}".to_owned(),
        "{{ ('a' * 9999999).replace('', 'b' * 9999999) }}".to_owned(),
        "{{ ('b' * 9999999).join(('a' * 99999)|list) }}".to_owned(),
        "{{ ('a ' * 9999999).split() }}".to_owned(),
        "{{ ('a' * 9999999)|list }}".to_owned(),
    ];
    refused_in_line_one(&sources);
}

#[test]
fn templates_that_fill_the_memory_bit_by_bit() {
    let doubled = |start: &str, twice: &str| {
        format!(
            "{{% set ns = namespace(s={start}) %}}{{% for i in range(99999) %}}{{% set ns.s = {twice} %}}{{% endfor %}}"
        )
    };
    let mut sources = vec![
        "{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}".to_owned(),
        "{% for i in range(99999) %}{% set x = namespace(a='x' * 9999999) %}{% endfor %}".to_owned(),
        doubled("'x'", "ns.s ~ ns.s"),
        doubled("'x'", "ns.s + ns.s"),
        doubled("'x'", "ns.s|replace('x', 'xx')"),
        doubled("[1]", "ns.s + ns.s"),
        doubled("[1]", "[ns.s, ns.s]"),
        doubled("'\\''", "[ns.s]|string"),
        doubled("'\"'", "ns.s|tojson"),
    ];
    // Deep, and shared: small in memory, without an end when it is written or compared.
    let nested = "{% set ns = namespace(s=[1], t=[1]) %}{% for i in range(100) %}{% set ns.s = [ns.s, ns.s] %}\
                  {% set ns.t = [ns.t, ns.t] %}{% endfor %}";
    for end in ["{{ ns.s }}", "{{ ns.s|tojson }}", "{{ ns.s == ns.t }}", "{{ ns.s in [ns.t] }}", "{{ ns.s < ns.t }}"] {
        sources.push(format!("{nested}{end}"));
    }
    refused_in_line_one(&sources);
}

fn refused_in_line_one(sources: &[String]) {
    for source in sources {
        let refused = refusal(source);
        assert!(refused.starts_with("m/chat_template.jinja: chat template: line 1: "), "{source}: {refused}");
    }
}

#[test]
fn what_is_deep_is_refused_on_a_small_stack() {
    let deep = |open: &str, middle: &str, close: &str| open.repeat(9999) + middle + &close.repeat(9999);
    let nested =
        |each: &str| format!("{{% set ns = namespace(s=1) %}}{{% for i in range(9999) %}}{each}{{% endfor %}}");
    let sources = [
        deep("{% if true %}", "x", "{% endif %}"),
        deep("{% for i in [1] %}", "x", "{% endfor %}"),
        format!("{{{{ {} }}}}", deep("(", "1", ")")),
        format!("{{{{ {} }}}}", deep("[", "1", "]")),
        format!("{{{{ {} }}}}", deep("{1: ", "1", "}")),
        format!("{{{{ {}1 }}}}", "-".repeat(9999)),
        format!("{{{{ {}1 }}}}", "1 if 1 else ".repeat(9999)),
        format!("{{{{ x{} }}}}", deep("[", "1", "]")),
        format!("{{% set {} = 1 %}}", deep("(", "a", ")")),
        nested("{% set ns.s = [ns.s] %}"),
        nested("{% set ns.s = {1: ns.s} %}"),
        "{% macro m(n) %}{{ [(m(n + 1) ~ 'x')|upper][0] if true else 1 }}{% endmacro %}{{ m(0) }}".to_owned(),
        "{% macro m() %}{% for i in [1] %}{% if i %}{% filter upper %}{{ m() }}{% endfilter %}{% endif %}{% endfor %}\
         {% endmacro %}{{ m() }}"
            .to_owned(),
        "{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{{ m() }}".to_owned(),
    ];
    let on_small_stack = std::thread::Builder::new().stack_size(3 << 19).spawn(move || {
        for source in sources {
            assert!(refusal(&source).contains("m/chat_template.jinja: chat template: line "));
        }
        // Long, but not deep.
        let long = format!("{{{{ {}'' }}}}", "'a' ~ ".repeat(9999));
        assert_eq!(text(&long, "").len(), 9999);
        assert_eq!(text(&format!("{{{{ {}0 }}}}", "1 + ".repeat(9999)), ""), "9999");
        assert_eq!(text(&format!("{{{{ 1{} }}}}", "|string".repeat(9999)), ""), "1");
        assert_eq!(text(&format!("{{{{ {}1 }}}}", "not ".repeat(9999)), ""), "False");
        let branches = "{% elif false %}".repeat(9999);
        assert_eq!(text(&format!("{{% if false %}}{branches}{{% else %}}x{{% endif %}}"), ""), "x");
    });
    on_small_stack.unwrap().join().unwrap();
}

#[test]
fn long_conversations_are_within_the_limits() {
    let source = "{% set ns = namespace(all='') %}{% for m in messages %}{% for n in messages %}{% if n.role == 'x' %}\
                  {% endif %}{% endfor %}{% set ns.all = ns.all ~ m.content %}{% endfor %}{{ ns.all }}";
    let messages = vec![remask_core::chat::Message::new("user", "word ".repeat(100)); 200];
    let rendered = template(source).unwrap().render(&messages.into()).unwrap();
    assert_eq!(super::given(&rendered), ["word ".repeat(20_000)]);
}

#[test]
fn data_that_is_deep_is_refused() -> Result<()> {
    let mut deep = json!(1);
    for _ in 0..500 {
        deep = json!([deep]);
    }
    let refused = render("{{ deep }}", "x", json!({ "deep": deep })).unwrap_err().to_string();
    assert!(refused.contains("too deep"), "{refused}");
    // Dropping what lies so deep would itself take a deep stack.
    while let Some(inner) = deep.get_mut(0).map(serde_json::Value::take) {
        deep = inner;
    }
    Ok(())
}

#[test]
fn faults_name_file_and_line() {
    for (source, fault) in [
        ("a\n\n{% if %}", "line 3: expected an expression, found %}"),
        ("{% if true %}\nx", "line 1: if has no end: {% elif/else/endif %} is missing"),
        ("\n{{ messages[0].content.x.y }}", "line 2: text has no 'x'"),
        ("{% for m in messages %}\n{{ m.content + 1 }}{% endfor %}", "line 2: + does not take text and int"),
        ("{{\n\n nothing.more }}", "line 3: 'nothing' is undefined"),
        ("\r\n\r\n{{ 'a }}", "line 3: a text has no end: ' is missing"),
        ("{% macro m(x) %}\n{{ x.y.z }}{% endmacro %}\n{{ m(1) }}", "line 2: int has no 'y'"),
        ("{{ 1 | nope }}", "line 1: there is no filter 'nope'"),
        ("{{ raise_exception('only\\nso') }}", "only\\nso"),
    ] {
        assert_eq!(refusal(source), format!("m/chat_template.jinja: chat template: {fault}"), "{source}");
    }
}
