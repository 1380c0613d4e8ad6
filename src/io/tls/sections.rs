//! The sections of a PEM file.
//!
//! RFC 7468, and the variations of real files: several files joined with their byte-order marks, a section that begins on the
//! line on which another ends, text between sections. An unreadable section is kept with its line and the reason, so that none
//! disappears. Does not decide the use of the sections (`pem`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// One section of a PEM file.
pub(super) struct Section<'a> {
    /// The label after `BEGIN`; empty if it is invalid.
    pub(super) label: &'a str,
    /// The line of its beginning, counted from 1.
    pub(super) line: usize,
    /// Its contents, or why they are unreadable.
    pub(super) content: Result<Zeroizing<Vec<u8>>, &'static str>,
}

/// The message for a key that is encrypted in the traditional format of OpenSSL.
pub(super) const TRADITIONALLY_ENCRYPTED: &str =
    "the key is encrypted in the traditional format of OpenSSL; convert it with `openssl pkcs8 -topk8`";

const DASHES: &[u8] = b"-----";

/// Reads all sections of a file, in order.
///
/// # Errors
/// The reason, if the file can't contain any section.
pub(super) fn sections(file: &[u8]) -> Result<Vec<Section<'_>>, &'static str> {
    if matches!(file, [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) {
        return Err("it is UTF-16; save it as UTF-8 or ASCII");
    }
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(begin) = find(file, at, b"BEGIN ") {
        let label_at = begin + b"BEGIN ".len();
        let dashes = file.get(at..begin).unwrap_or_default().iter().rev().take_while(|byte| **byte == b'-').count();
        line += lines(file, at, label_at);
        at = label_at;
        let text = rest_of_line(file, label_at);
        if dashes < DASHES.len() && (dashes == 0 || !begins_with_label(text)) {
            continue;
        }
        let (label, content, end) = read(file, label_at, dashes);
        found.push(Section { label, line, content });
        line += lines(file, at, end);
        at = end;
    }
    Ok(found)
}

/// Reads the section whose label begins here, and returns its end.
fn read(file: &[u8], label_at: usize, dashes: usize) -> (&str, Result<Zeroizing<Vec<u8>>, &'static str>, usize) {
    let text = rest_of_line(file, label_at);
    let written = before_dash(text).unwrap_or(text);
    let body_at = label_at + written.len() + DASHES.len();
    let is_framed = dashes >= DASHES.len() && file.get(label_at + written.len()..body_at) == Some(DASHES);
    if !is_framed {
        let label = usable_label(written.trim_ascii_end()).unwrap_or_default();
        return (label, Err("its first line does not begin and end with five dashes"), label_at);
    }
    let Some(label) = usable_label(written) else {
        return ("", Err("its label has characters other than capital letters and digits"), body_at);
    };
    let end_mark = [b"-----END ", label.as_bytes(), DASHES].concat();
    let next = find(file, body_at, DASHES).unwrap_or(file.len());
    if file.get(next..next + end_mark.len()) != Some(&end_mark) {
        let why = if file.get(next..).is_some_and(|rest| rest.starts_with(b"-----END ")) {
            "its last line has another label"
        } else {
            "it has no last line"
        };
        return (label, Err(why), next);
    }
    (label, decode(file.get(body_at..next).unwrap_or_default()), next + end_mark.len())
}

fn decode(body: &[u8]) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    if find(body, 0, b"Proc-Type: 4,ENCRYPTED").is_some() {
        return Err(TRADITIONALLY_ENCRYPTED);
    }
    // The section may be a key: the buffer never grows, which would leave copies behind.
    let mut compact = Zeroizing::new(Vec::with_capacity(body.len()));
    compact.extend(body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()));
    let mut content = Zeroizing::new(Vec::with_capacity(base64::decoded_len_estimate(compact.len())));
    // The details of the fault could contain a piece of a key.
    STANDARD.decode_vec(&*compact, &mut content).map_err(|_| "it is not base64")?;
    Ok(content)
}

/// Returns whether the text could be a label followed by dashes.
fn begins_with_label(text: &[u8]) -> bool {
    before_dash(text).and_then(usable_label).is_some()
}

fn before_dash(text: &[u8]) -> Option<&[u8]> {
    text.get(..text.iter().position(|byte| *byte == b'-')?)
}

/// Returns a label of capital letters, digits and blanks. Other labels are not shown: they may be a piece of a key.
fn usable_label(text: &[u8]) -> Option<&str> {
    let is_usable = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b' ';
    let label = Some(text).filter(|text| !text.is_empty() && text.iter().all(is_usable));
    label.and_then(|label| std::str::from_utf8(label).ok())
}

fn rest_of_line(file: &[u8], at: usize) -> &[u8] {
    let rest = file.get(at..).unwrap_or_default();
    let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
    rest.get(..end).unwrap_or_default()
}

/// Counts the line ends between two positions: `\n`, `\r\n` or `\r`.
fn lines(file: &[u8], from: usize, to: usize) -> usize {
    let part = file.get(from..to).unwrap_or_default();
    let alone = |at: usize| part.get(at) == Some(&b'\r') && part.get(at + 1) != Some(&b'\n');
    (0..part.len()).filter(|at| part.get(*at) == Some(&b'\n') || alone(*at)).count()
}

fn find(bytes: &[u8], from: usize, wanted: &[u8]) -> Option<usize> {
    let rest = bytes.get(from..)?;
    rest.windows(wanted.len()).position(|window| window == wanted).map(|at| from + at)
}
