//! Tokens of a listing: opaque to callers, the last id of the page before to the server.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// Every token starts with this, so that other text is refused.
const VERSION: u8 = 1;

/// The token of the page behind `last`; empty if there is none.
pub fn encode(last: Option<&str>) -> String {
    let Some(last) = last else { return String::new() };
    URL_SAFE_NO_PAD.encode([&[VERSION], last.as_bytes()].concat())
}

/// The id a token stands for; none for an empty token, which is the first page.
///
/// # Errors
/// [`BadPageToken`] if the text is not a token.
pub fn decode(token: &str) -> Result<Option<String>, BadPageToken> {
    if token.is_empty() {
        return Ok(None);
    }
    let mut bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| BadPageToken)?;
    if bytes.first() != Some(&VERSION) {
        return Err(BadPageToken);
    }
    bytes.remove(0);
    String::from_utf8(bytes).map(Some).map_err(|_| BadPageToken)
}

/// The text is not the token of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a page token: pass back what an answer held, unchanged")]
pub struct BadPageToken;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stands_for_its_id() {
        for id in [None, Some("run_1"), Some(""), Some("läuft")] {
            assert_eq!(decode(&encode(id)), Ok(id.map(String::from)));
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["run_1", "_", "%%%", "AnJ1bl8x"] {
            assert_eq!(decode(text), Err(BadPageToken), "{text}");
        }
    }
}
