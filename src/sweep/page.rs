//! A page of HTML to look through the pictures of a gallery: one file, which asks nobody for anything.
//!
//! The tables are there without the script, which adds order, choice, comparison and the keyboard. All words are a
//! stranger's: they are escaped, hidden characters are shown, and a content security policy lets the two texts of this
//! file run and nothing else.

use super::gallery::{Gallery, Shown, replace};
use crate::error::{Error, InFile, Result};
use crate::input;
use crate::plain;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::path::Path;

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
/// Most bytes of a picture that is put into the page, and of all.
const LARGEST: u64 = 256 << 20;
const MOST: u64 = 1 << 30;

impl Gallery {
    /// Writes the page `NAME.html`; a file that is there is replaced. `inline`: whether the pictures are in it, else it
    /// shows those of the folder.
    ///
    /// # Errors
    /// [`Error::Limit`] for pictures that are too large to be put into the page; what reading and writing give.
    pub fn write_page(
        &self,
        folder: &Path,
        name: &str,
        inline: bool,
    ) -> Result<std::path::PathBuf> {
        let path = folder.join(format!("{name}.html"));
        replace(&path, self.page(folder, inline)?.as_bytes())?;
        Ok(path)
    }

    /// The page.
    fn page(&self, folder: &Path, inline: bool) -> Result<String> {
        let mut sources = Vec::with_capacity(self.cells.len());
        let mut left = MOST;
        for cell in &self.cells {
            sources.push(Self::source(folder, cell, inline, &mut left)?);
        }
        let title = escaped(&self.title);
        let tables = self.tables(&sources);
        let data = plain::json(&self.data(&sources).to_string()).replace('<', "\\u003c");
        let policy = format!(
            "default-src 'none'; img-src 'self' file: data:; style-src {}; script-src {}; base-uri 'none'; form-action \
             'none'",
            hash(STYLE),
            hash(SCRIPT)
        );
        let (tools, dialogs) = (self.tools(), DIALOGS);
        let summary = escaped(&self.summary());
        let version = escaped(&self.version);
        Ok(format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta \
             http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n<meta name=\"viewport\" \
             content=\"width=device-width, initial-scale=1\">\n<meta name=\"referrer\" \
             content=\"no-referrer\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>\n<p>{summary}</p>\n{tools}</header>\n<main>\n{tables}<ul class=\"list\" id=\"list\" hidden></ul>\n</main>\n<footer><p>Made \
             by colora {version}. <span id=\"said\" role=\"status\"></span></p></footer>\n{dialogs}<script \
             type=\"application/json\" id=\"data\">{data}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
        ))
    }

    /// Where the page finds a picture; `None` where there is none.
    fn source(folder: &Path, cell: &Shown, inline: bool, left: &mut u64) -> Result<Option<String>> {
        let Some(path) = cell.path(folder).filter(|_| cell.error.is_none()) else {
            return Ok(None);
        };
        if !inline {
            return Ok(cell.file.as_deref().map(address));
        }
        let bytes = match input::bytes(&path, LARGEST, "a picture") {
            Ok(bytes) => bytes,
            // It is missing in the page as it is in the folder.
            Err(Error::Io { .. }) => return Ok(None),
            Err(error) => return Err(error).in_file(&path),
        };
        let size = bytes.len() as u64;
        *left = left.checked_sub(size).ok_or(Error::Limit {
            what: "bytes of pictures in a page",
            allowed: MOST,
            asked: MOST - *left + size,
        })?;
        Ok(Some(format!("data:image/png;base64,{}", BASE64.encode(bytes))))
    }

    /// What stands under the title.
    fn summary(&self) -> String {
        let axes = self.axes.iter().map(|axis| format!("{} {}", axis.labels.len(), axis.title));
        let axes: Vec<String> = axes.collect();
        let missing = self.cells.iter().filter(|cell| cell.error.is_some()).count();
        let mut text = match self.cells.len() {
            1 => "1 picture".to_owned(),
            count => format!("{count} pictures"),
        };
        if !axes.is_empty() {
            text += &format!(": {}", axes.join(" x "));
        }
        if missing > 0 {
            text += &format!("; {missing} could not be made");
        }
        text
    }

    /// What a picture is called.
    fn name(&self, cell: &Shown) -> String {
        let labels = self.axes.iter().zip(&cell.at).filter_map(|(axis, at)| {
            let label = axis.labels.get(*at)?.trim();
            (!label.is_empty()).then_some(label)
        });
        let labels: Vec<&str> = labels.collect();
        let name = if labels.is_empty() { cell.caption.clone() } else { labels.join(", ") };
        let name = plain::value(name.trim()).into_owned();
        if name.is_empty() { cell.file.clone().unwrap_or_else(|| "a picture".into()) } else { name }
    }

    /// What the script needs.
    fn data(&self, sources: &[Option<String>]) -> serde_json::Value {
        let cells = self.cells.iter().zip(sources).map(|(cell, source)| {
            json!({
                "name": self.name(cell), "at": cell.at, "id": cell.id, "src": source,
                "file": cell.file.as_deref().map(plain::value),
                "error": cell.error.as_deref().map(plain::value),
                "width": cell.width, "height": cell.height, "prompt": plain::value(&cell.prompt),
                "seed": cell.seed, "command": cell.command,
                "seconds": cell.seconds.filter(|seconds| seconds.is_finite()),
            })
        });
        // Script leaves what is null out of its own rows.
        let cells: Vec<serde_json::Value> = cells
            .map(|mut cell| {
                if let serde_json::Value::Object(map) = &mut cell {
                    map.retain(|_, value| !value.is_null());
                }
                cell
            })
            .collect();
        json!({"title": plain::value(&self.title), "cells": cells})
    }

    /// The pictures in their tables, a section for each value of the third axis; without axes, a list.
    fn tables(&self, sources: &[Option<String>]) -> String {
        let mut html = String::from("<div class=\"tables\">\n");
        if self.axes.is_empty() {
            html += "<section aria-label=\"Pictures\"><ul class=\"list\">\n";
            for number in 0..self.cells.len() {
                let words = self.cells.get(number).map(|cell| self.name(cell)).unwrap_or_default();
                let (button, words) = (self.button(number, sources), escaped(&words));
                html += &format!("<li>{button}<span class=\"words\">{words}</span></li>\n");
            }
            return html + "</ul></section>\n</div>\n";
        }
        let (columns, rows, pages) = (self.side(0), self.side(1), self.side(2));
        for page in 0..pages {
            let head = self.axes.get(2).and_then(|axis| axis.labels.get(page));
            let head = head.map(|label| escaped(label));
            let label = head.clone().unwrap_or_else(|| "Pictures".into());
            let _ = writeln!(html, "<section aria-label=\"{label}\">");
            if let Some(head) = &head {
                let _ = writeln!(html, "<h2>{head}</h2>");
            }
            let titles: Vec<String> = self.axes.iter().map(|axis| escaped(&axis.title)).collect();
            let caption = titles.iter().take(2).cloned().collect::<Vec<_>>().join(" by ");
            let _ = write!(html, "<table>\n<caption>{caption}</caption>\n<thead><tr><td></td>");
            for label in self.axes.first().map_or(&[][..], |axis| &axis.labels) {
                let _ = write!(html, "<th scope=\"col\">{}</th>", escaped(label));
            }
            html += "</tr></thead>\n<tbody>\n";
            for row in 0..rows {
                let label = self.axes.get(1).and_then(|axis| axis.labels.get(row));
                let label = label.map(|label| escaped(label)).unwrap_or_default();
                let _ = match label.as_str() {
                    "" => write!(html, "<tr><td></td>"),
                    label => write!(html, "<tr><th scope=\"row\">{label}</th>"),
                };
                for column in 0..columns {
                    let number = (page * rows + row) * columns + column;
                    let _ = write!(html, "<td>{}</td>", self.button(number, sources));
                }
                html += "</tr>\n";
            }
            html += "</tbody>\n</table>\n</section>\n";
        }
        html + "</div>\n"
    }

    /// A cell: a picture, or why there is none.
    fn button(&self, number: usize, sources: &[Option<String>]) -> String {
        let Some(cell) = self.cells.get(number) else { return String::new() };
        let mut name = escaped(&self.name(cell));
        let source = sources.get(number).and_then(Option::as_deref);
        let inner = if let Some(source) = source {
            format!(
                "<img src=\"{}\" alt=\"\" width=\"{}\" height=\"{}\" loading=\"lazy\" decoding=\"async\">",
                escaped(source),
                cell.width,
                cell.height
            )
        } else {
            let why = escaped(cell.error.as_deref().unwrap_or("There is no picture."));
            // What is seen is what is read aloud.
            name += &format!(": {why}");
            format!("<span class=\"why\">{why}</span>")
        };
        format!(
            "<button type=\"button\" class=\"cell\" data-cell=\"{number}\" aria-label=\"{name}\">{inner}<span \
             class=\"star\" aria-hidden=\"true\">★</span></button>"
        )
    }

    /// The tools above the pictures; hidden until the script runs.
    fn tools(&self) -> String {
        let usual = self.cells.iter().map(|cell| cell.width).max().unwrap_or(128).clamp(128, 256);
        let pages = match self.axes.get(2) {
            Some(axis) => {
                let options = axis.labels.iter().enumerate().map(|(page, label)| {
                    format!("<option value=\"{page}\">{}</option>", escaped(label))
                });
                let title = escaped(&axis.title);
                format!(
                    "<label>{title} <select id=\"page\"><option value=\"all\">all</option>{}</select></label>\n",
                    options.collect::<String>()
                )
            }
            None => String::new(),
        };
        format!(
            "<div class=\"tools\" id=\"tools\" hidden>\n{pages}<label>Size <input type=\"range\" id=\"size\" min=\"64\" \
             max=\"768\" step=\"16\" value=\"{usual}\"></label>\n<label>Sort by <select id=\"order\"><option \
             value=\"place\">place</option><option value=\"best\">choice</option><option \
             value=\"seconds\">time</option><option value=\"seed\">seed</option></select></label>\n<label><input \
             type=\"checkbox\" id=\"only\"> only the chosen</label>\n<span id=\"count\"></span>\n<button type=\"button\" \
             class=\"tool\" id=\"commands\" disabled>Copy their commands</button>\n<button type=\"button\" class=\"tool\" \
             id=\"save\" disabled>Save the choice</button>\n<button type=\"button\" class=\"tool\" \
             id=\"helper\">Keys</button>\n</div>\n"
        )
    }
}

/// The dialogs, whose words the script fills in.
const DIALOGS: &str = r#"<dialog id="zoom" aria-labelledby="name">
<h2 id="name"></h2>
<div class="tools">
<button type="button" class="tool" id="before">Previous</button>
<button type="button" class="tool" id="after">Next</button>
<button type="button" class="tool" id="choose" aria-pressed="false">★ Choose</button>
<button type="button" class="tool" id="mark" aria-pressed="false">Compare</button>
<button type="button" class="tool" data-zoom="0" aria-pressed="true">Fit</button>
<button type="button" class="tool" data-zoom="1" aria-pressed="false">100 %</button>
<button type="button" class="tool" data-zoom="2" aria-pressed="false">200 %</button>
<button type="button" class="tool" data-zoom="4" aria-pressed="false">400 %</button>
<button type="button" class="tool" id="copy">Copy the command</button>
<button type="button" class="tool" data-close>Close</button>
</div>
<div class="view" id="view" tabindex="0" role="region" aria-label="Picture"></div>
<dl id="facts"></dl>
<pre id="command"></pre>
</dialog>
<dialog id="compare" aria-label="Two pictures">
<div class="tools"><button type="button" class="tool" data-close>Close</button></div>
<div class="pair" id="pair"></div>
<label>One over the other <input class="wide" type="range" id="part" min="0" max="100" value="50"></label>
<div class="wipe" id="wipe" aria-hidden="true"></div>
</dialog>
<dialog id="help" aria-labelledby="keys">
<h2 id="keys">Keys</h2>
<dl>
<dt><kbd>←</kbd> <kbd>→</kbd> <kbd>↑</kbd> <kbd>↓</kbd></dt><dd>another picture; in the large view the one before and after</dd>
<dt><kbd>Enter</kbd></dt><dd>the picture large, with its settings</dd>
<dt><kbd>b</kbd></dt><dd>choose it, or choose it no more</dd>
<dt><kbd>c</kbd></dt><dd>mark it; two that are marked are compared</dd>
<dt><kbd>y</kbd></dt><dd>copy the command that makes it again</dd>
<dt><kbd>Esc</kbd></dt><dd>close what is open</dd>
</dl>
<button type="button" class="tool" data-close>Close</button>
</dialog>
"#;

/// A text as a part of a page, in an element or between quotes; hidden characters are shown.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in plain::value(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A path below the page's folder as a relative address.
fn address(file: &str) -> String {
    let mut out = String::from("./");
    for byte in file.bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            byte => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

/// The source of a policy that allows one text.
fn hash(text: &str) -> String {
    format!("'sha256-{}'", BASE64.encode(Sha256::digest(text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::super::gallery::Legend;
    use super::*;
    use crate::picture::Picture;

    const HOSTILE: &str = "</script><script>alert(1)</script>\" onerror='x' \u{202e}<img src=x>";

    fn gallery(axes: usize) -> Gallery {
        let mut gallery = Gallery::new(HOSTILE);
        let labels = vec![HOSTILE.to_owned(), "b".to_owned()];
        let legend =
            Legend { name: "x".into(), title: HOSTILE.into(), labels, ..Legend::default() };
        gallery.axes = vec![legend; axes];
        for number in 0..1 << axes.max(1) {
            gallery.cells.push(Shown {
                at: (0..axes).map(|axis| number >> axis & 1).collect(),
                file: Some(format!("cells/a \"{number}'<.png")),
                caption: HOSTILE.into(),
                prompt: HOSTILE.into(),
                command: Some(format!("colora '{HOSTILE}'")),
                width: 8,
                height: 8,
                ..Shown::default()
            });
        }
        gallery.cells[0].error = Some(HOSTILE.into());
        gallery
    }

    /// Every word of a gallery may be a stranger's.
    #[test]
    fn nothing_of_a_text_becomes_markup() {
        for axes in 0..4 {
            let page = gallery(axes).page(Path::new("."), false).unwrap();
            assert_eq!(page.matches("<script").count(), 2, "{axes}");
            assert!(!page.contains("<script>alert") && !page.contains("<img src=x"), "{axes}");
            assert!(!page.contains('\u{202e}'), "what turns text is shown");
            let markup: String =
                page.split("id=\"data\">").enumerate().fold(String::new(), |text, (at, part)| {
                    text + if at == 0 {
                        part
                    } else {
                        part.split_once("</script>").map_or("", |(_, rest)| rest)
                    }
                });
            assert!(!markup.contains("\" onerror='x'"));
            assert!(page.contains("./cells/a%20%221%27%3C.png"));
            let begin = page.find("id=\"data\">").unwrap() + 10;
            let end = begin + page[begin..].find("</script>").unwrap();
            let data: serde_json::Value = serde_json::from_str(&page[begin..end]).unwrap();
            assert_eq!(data["cells"].as_array().unwrap().len(), 1 << axes.max(1));
            assert!(data["cells"][1]["command"].as_str().unwrap().contains("</script>"));
            assert!(data["cells"][0]["src"].is_null());
        }
    }

    #[test]
    fn the_policy_lets_these_two_texts_run_and_no_other() {
        let page = gallery(2).page(Path::new("."), false).unwrap();
        assert!(page.contains(&format!("style-src {}; script-src {};", hash(STYLE), hash(SCRIPT))));
        assert!(page.contains("default-src 'none'"));
        assert!(page.contains(&format!("<style>{STYLE}</style>")));
        assert!(page.contains(&format!("<script>{SCRIPT}</script>")));
        assert!(!STYLE.contains("</") && !SCRIPT.contains("</"));
        for word in ["http:", "https:", "//cdn", "innerHTML", "eval("] {
            assert!(!STYLE.contains(word) && !SCRIPT.contains(word), "{word}");
        }
        // An attribute of style would not be allowed.
        assert!(!page.contains(" style=") && !page.contains(" onclick="));
    }

    #[test]
    fn pictures_can_be_in_the_page() {
        let folder = tempfile::tempdir().unwrap();
        Picture::new(8, 8, vec![7; 192]).unwrap().save(folder.path().join("a.png"), false).unwrap();
        let mut gallery = gallery(1);
        gallery.cells[1].file = Some("a.png".into());
        gallery.cells[0].error = None;
        gallery.cells[0].file = Some("not there.png".into());
        let page = gallery.page(folder.path(), true).unwrap();
        assert!(page.contains("src=\"data:image/png;base64,iVBORw0KGgo"));
        assert!(page.contains("There is no picture."));
        let path = gallery.write_page(folder.path(), "sweep", true).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), page);
    }
}
