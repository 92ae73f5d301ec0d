//! A report as a list of blocks, written as Markdown or as a page by itself.

use remask_core::text::shown;

/// A part of it.
#[derive(Debug, Clone)]
pub enum Block {
    /// A heading of this depth, from 1.
    Heading(usize, String),
    /// A paragraph.
    Text(String),
    /// Points.
    List(Vec<String>),
    /// Points with a box each: ticked, not ticked, or none where there was nothing to try.
    Checks(Vec<(Option<bool>, String)>),
    /// A head and rows.
    Table(Vec<String>, Vec<Vec<String>>),
    /// Text as it is.
    Code(String),
    /// A figure, which only a page can hold.
    Figure(String),
}

/// A paragraph.
pub fn text(text: impl Into<String>) -> Block {
    Block::Text(text.into())
}

/// A heading.
pub fn heading(depth: usize, text: impl Into<String>) -> Block {
    Block::Heading(depth, text.into())
}

/// A table.
pub fn table(head: &[&str], rows: Vec<Vec<String>>) -> Block {
    Block::Table(head.iter().map(|name| (*name).to_owned()).collect(), rows)
}

/// Tables and paragraphs for a terminal: what is no markup stays as it is.
pub fn terminal(blocks: &[Block]) -> String {
    let mut out = String::new();
    for block in blocks {
        match block {
            Block::Table(head, rows) => {
                let cells = |row: &Vec<String>| row.iter().map(|cell| shown(cell).to_string()).collect();
                let head: Vec<_> = head.iter().map(String::as_str).collect();
                out += &crate::bench::markdown(&head, rows.iter().map(cells));
            }
            Block::List(points) => points.iter().for_each(|point| out += &format!("- {}\n", shown(point))),
            Block::Heading(_, text) | Block::Text(text) => out += &format!("{}\n", shown(text)),
            Block::Code(_) | Block::Checks(_) | Block::Figure(_) => continue,
        }
        out.push('\n');
    }
    out
}

/// As Markdown. Texts may come from a server: they stay texts.
pub fn markdown(blocks: &[Block]) -> String {
    let mut out = String::new();
    for block in blocks {
        match block {
            Block::Heading(depth, text) => out += &format!("{} {}\n", "#".repeat(*depth), plain(text)),
            Block::Text(text) => out += &format!("{}\n", plain(text)),
            Block::List(points) => points.iter().for_each(|point| out += &format!("- {}\n", plain(point))),
            Block::Checks(points) => {
                for (mark, point) in points {
                    let mark = match mark {
                        Some(true) => "[x]",
                        Some(false) => "[ ] **failed:**",
                        None => "(not offered)",
                    };
                    out += &format!("- {mark} {}\n", plain(point));
                }
            }
            Block::Table(head, rows) => {
                let row = |cells: &[String]| {
                    let cells: Vec<_> = cells.iter().map(|cell| plain(cell).replace('|', "\\|")).collect();
                    format!("| {} |\n", cells.join(" | "))
                };
                out += &row(head);
                out += &format!("|{}\n", "---|".repeat(head.len()));
                rows.iter().for_each(|cells| out += &row(cells));
            }
            Block::Code(code) => {
                let fence = "`".repeat(longest_run(code, '`').max(2) + 1);
                out += &format!("{fence}\n{}\n{fence}\n", code.trim_end());
            }
            Block::Figure(_) => continue,
        }
        out.push('\n');
    }
    out
}

/// One line in which nothing is markup.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for letter in shown(text).to_string().chars() {
        if matches!(letter, '*' | '_' | '`' | '<' | '[' | ']' | '\\') {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

fn longest_run(text: &str, letter: char) -> usize {
    text.split(|c| c != letter).map(str::len).max().unwrap_or(0)
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:72em;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.25em .6em;text-align:left}\
pre{background:#f6f6f6;padding:.8em;overflow:auto;white-space:pre-wrap}ul.checks{list-style:none;padding-left:0}\
.passed::before{content:'\\2713';color:#060}.failed::before{content:'\\2717';color:#b00}\
.none::before{content:'\\2013'}ul.checks li::before{display:inline-block;width:1.4em}.failed{color:#b00}svg{max-width:100%}";

/// As a page that needs nothing else.
pub fn html(title: &str, blocks: &[Block]) -> String {
    let title = escaped(title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>\n<style>{STYLE}</style>\n"
    );
    for block in blocks {
        match block {
            Block::Heading(depth, text) => out += &format!("<h{depth}>{}</h{depth}>\n", escaped(text)),
            Block::Text(text) => out += &format!("<p>{}</p>\n", escaped(text)),
            Block::List(points) => {
                let points: String = points.iter().map(|point| format!("<li>{}</li>", escaped(point))).collect();
                out += &format!("<ul>{points}</ul>\n");
            }
            Block::Checks(points) => {
                let class = |mark: &Option<bool>| match mark {
                    Some(true) => "passed",
                    Some(false) => "failed",
                    None => "none",
                };
                let point = |(mark, text): &(Option<bool>, String)| {
                    format!("<li class=\"{}\">{}</li>", class(mark), escaped(text))
                };
                out += &format!("<ul class=\"checks\">{}</ul>\n", points.iter().map(point).collect::<String>());
            }
            Block::Table(head, rows) => {
                let row = |cells: &[String], tag: &str| {
                    let cells: String = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
                    format!("<tr>{cells}</tr>")
                };
                let body: String = rows.iter().map(|cells| row(cells, "td")).collect();
                out += &format!("<table>{}{body}</table>\n", row(head, "th"));
            }
            Block::Code(code) => out += &format!("<pre>{}</pre>\n", escaped(code)),
            Block::Figure(svg) => out += &format!("{svg}\n"),
        }
    }
    out + "</html>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_never_markup() {
        let evil = "<script>*x*|[a](b)`\n# no";
        let blocks = [
            text(evil),
            table(&["a"], vec![vec![evil.to_owned()]]),
            Block::Code("````\n<b>".to_owned()),
            Block::Checks(vec![(Some(true), evil.to_owned()), (Some(false), "b".to_owned()), (None, "c".to_owned())]),
        ];
        let page = html(evil, &blocks);
        assert!(!page.contains("<script>") && page.contains("&lt;script&gt;") && page.contains("class=\"failed\">b"));
        let written = markdown(&blocks);
        assert!(written.starts_with("\\<script>\\*x\\*|\\[a\\](b)\\`"), "{written}");
        assert!(!written.lines().any(|line| line.starts_with("# no")), "{written}");
        assert!(written.contains("\\*x\\*\\|") && written.contains("`````\n````\n<b>\n`````"), "{written}");
        assert!(written.contains("- [ ] **failed:** b\n- (not offered) c\n"), "{written}");
    }
}
