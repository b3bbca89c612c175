//! Tokens of a listing: opaque to callers, the last run of the page before to the server.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{engine::ListPosition, record::RunNo};

/// Every token starts with this, so that other text is refused.
const VERSION: u8 = 1;

/// The token of the page behind `last`; empty if there is none.
pub fn encode(last: Option<ListPosition>) -> String {
    let Some(ListPosition { created_ms, run_no }) = last else { return String::new() };
    let numbers = [created_ms.to_be_bytes(), run_no.0.to_be_bytes()].concat();
    URL_SAFE_NO_PAD.encode([&[VERSION], &numbers[..]].concat())
}

/// The run a token stands for; none for an empty token, which is the first page.
///
/// # Errors
/// [`BadPageToken`] if the text is not a token.
pub fn decode(token: &str) -> Result<Option<ListPosition>, BadPageToken> {
    if token.is_empty() {
        return Ok(None);
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| BadPageToken)?;
    let numbers = bytes.strip_prefix(&[VERSION]).ok_or(BadPageToken)?;
    let (created_ms, run_no) = numbers.split_first_chunk().ok_or(BadPageToken)?;
    let created_ms = u64::from_be_bytes(*created_ms);
    let run_no = run_no.try_into().map_err(|_| BadPageToken)?;
    Ok(Some(ListPosition { created_ms, run_no: RunNo(u64::from_be_bytes(run_no)) }))
}

/// The text is not the token of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a page token: pass back what an answer held, unchanged")]
pub struct BadPageToken;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stands_for_its_run() {
        let position = |created_ms, run_no| ListPosition { created_ms, run_no: RunNo(run_no) };
        for last in [None, Some(position(0, 0)), Some(position(1 << 41, u64::MAX))] {
            assert_eq!(decode(&encode(last)), Ok(last));
        }
    }

    #[test]
    fn other_text_is_refused() {
        let token = encode(Some(ListPosition { created_ms: 7, run_no: RunNo(9) }));
        let other_version = token.replacen("AQ", "Ag", 1);
        for text in ["run_1", "_", "%%%", "AQ", &token[..12], &format!("{token}AA"), &other_version]
        {
            assert_eq!(decode(text), Err(BadPageToken), "{text}");
        }
    }
}
