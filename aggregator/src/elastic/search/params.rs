//! Parameters of the address that matter to a search.

/// Parameters of the address that matter to a search.
pub type UrlParams = std::collections::HashMap<String, String>;
