//! What is written for people: plain tables, and lines beside the output.

use std::io::Write;

use remask_core::text::shown;

/// Says something beside the output, as one line on standard error: names from a model's files may hold
/// line breaks or a terminal's control codes.
pub fn tell(kind: &str, text: &str) {
    // Where standard error is gone as well, the exit status has to do.
    let _ = writeln!(std::io::stderr(), "{kind}: {}", shown(text));
}

/// Rows of cells in columns as wide as their widest cell; the first row is the head. Cells may hold what a file calls
/// its tensors.
pub fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<_>> = rows.iter().map(|row| row.iter().map(|cell| shown(cell).to_string()).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out += cells.join("  ").trim_end();
        out.push('\n');
    }
    out
}
