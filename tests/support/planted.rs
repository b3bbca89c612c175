//! Plants the bug that `BRAIDLOG_SABOTAGE` names, so that a test has something to find.

/// Plants it, if one is named. Tests call this where every one of them passes.
pub(crate) fn plant() {
    #[cfg(feature = "sabotage")]
    if let Ok(name) = std::env::var("BRAIDLOG_SABOTAGE") {
        use braidlog::sabotage::{self, Bug};
        sabotage::plant(Bug::named(&name).unwrap_or_else(|| panic!("no bug is named {name}")));
    }
}
