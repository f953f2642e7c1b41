//! The query DSL: the JSON below `query` to a tree.
//!
//! In: the `query` of a request. Out: [`Query`]. Touches nothing. What is not executed is refused by name.
//! Source: "Query DSL" of the Elasticsearch 7.10 reference.

use serde_json::Value as Json;

use super::bounds::Bounds;
use super::document::{MESSAGE, TIMESTAMP};
use super::error::ApiError;
use super::number::Number;
use super::query::{Bound, Query, Range, match_at_least, phrase_words, regex_query, wildcard, words};
use super::query_string;
use super::time::{self, Zone};

/// Depth of nested queries at most.
const MAX_DEPTH: usize = 30;
/// Values of one `terms` query at most, as in Elasticsearch.
const MAX_TERMS: usize = 65_536;

/// What the parser knows beside the query.
#[derive(Debug, Clone, Copy)]
pub struct Context<'r> {
    /// For date math.
    pub now_ns: i64,
    /// What the request has asked for so far.
    pub bounds: &'r Bounds,
    depth: usize,
}

impl<'r> Context<'r> {
    /// At the top of a request.
    pub fn new(now_ns: i64, bounds: &'r Bounds) -> Self {
        Self { now_ns, bounds, depth: 0 }
    }

    fn deeper(self) -> Result<Self, ApiError> {
        if self.depth >= MAX_DEPTH {
            return Err(ApiError::argument(format!("queries are nested deeper than {MAX_DEPTH}")));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

/// Reads the object below `query`.
pub fn parse(json: &Json, context: Context<'_>) -> Result<Query, ApiError> {
    if context.depth == 0 {
        context.bounds.begin_query();
    }
    let context = context.deeper()?;
    let object = json.as_object().ok_or_else(|| ApiError::parsing("[query] must be an object"))?;
    let mut entries = object.iter();
    let Some((kind, body)) = entries.next() else {
        return Err(ApiError::argument("query malformed, empty clause found"));
    };
    if let Some((second, _)) = entries.next() {
        return Err(ApiError::parsing(format!("[{kind}] malformed query, expected [END_OBJECT] but found [{second}]")));
    }
    let query = of_kind(kind, body, context)?;
    // Those that hold other queries counted them already.
    if !matches!(kind.as_str(), "bool" | "constant_score" | "dis_max" | "boosting" | "query_string") {
        context.bounds.add_clauses(query.clauses())?;
    }
    Ok(query)
}

fn of_kind(kind: &str, body: &Json, context: Context<'_>) -> Result<Query, ApiError> {
    match kind {
        "match_all" => Ok(Query::All),
        "match_none" => Ok(Query::None),
        "term" => term(body),
        "terms" => terms(body),
        "ids" => Ok(Query::terms("_id", texts(body.get("values"))?, false)),
        "range" => range(body, context),
        "match" => matching(body),
        "match_phrase" => phrase(body, false),
        "match_phrase_prefix" | "match_bool_prefix" => phrase(body, true),
        "multi_match" => multi_match(body),
        "exists" => match body.get("field").and_then(Json::as_str) {
            Some(field) => Ok(Query::Exists(field.to_owned())),
            None => Err(ApiError::argument("[exists] must be provided with a [field]")),
        },
        "prefix" => pattern(body, ("prefix", "value"), |text| format!("{}.*", regex::escape(text)), context.bounds),
        "wildcard" => {
            let key = if has_key(body, "wildcard") { "wildcard" } else { "value" };
            pattern(body, ("wildcard", key), wildcard, context.bounds)
        }
        "regexp" => pattern(body, ("regexp", "value"), str::to_owned, context.bounds),
        "bool" => boolean(body, context),
        "constant_score" => match body.get("filter") {
            Some(inner) => parse(inner, context),
            None => Err(ApiError::parsing("[constant_score] requires a 'filter' element")),
        },
        // Scores are not computed: what they only weigh is left out.
        "dis_max" => {
            let should = match body.get("queries") {
                Some(Json::Array(all)) => all.iter().map(|one| parse(one, context)).collect::<Result<Vec<_>, _>>()?,
                Some(one) => vec![parse(one, context)?],
                None => return Err(ApiError::parsing("[dis_max] requires 'queries' field with at least one clause")),
            };
            Ok(Query::Bool { must: Vec::new(), should, must_not: Vec::new(), at_least: 1 })
        }
        "boosting" => match body.get("positive") {
            Some(positive) => parse(positive, context),
            None => Err(ApiError::parsing("[boosting] query requires 'positive' query to be set'")),
        },
        "query_string" | "simple_query_string" => string(body, kind, context),
        known @ ("fuzzy" | "nested" | "script" | "script_score" | "function_score" | "more_like_this" | "percolate"
        | "geo_distance" | "geo_bounding_box" | "has_child" | "has_parent" | "span_near" | "span_term"
        | "intervals" | "terms_set" | "rank_feature" | "distance_feature" | "wrapper" | "combined_fields") => {
            Err(ApiError::not_yet(known))
        }
        other => Err(ApiError::parsing(format!("unknown query [{other}]"))),
    }
}

fn has_key(body: &Json, key: &str) -> bool {
    field_of(body, "wildcard").is_ok_and(|(_, of)| of.get(key).is_some())
}

/// The one field of a body such as `{"field": …}`.
fn field_of<'j>(body: &'j Json, kind: &str) -> Result<(&'j String, &'j Json), ApiError> {
    let object = body
        .as_object()
        .ok_or_else(|| ApiError::parsing(format!("[{kind}] query malformed, no start_object after query name")))?;
    let mut fields = object.iter().filter(|(name, _)| !matches!(name.as_str(), "boost" | "_name"));
    match (fields.next(), fields.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(ApiError::argument(format!("[{kind}] query malformed, no field name"))),
        (Some(_), Some(_)) => Err(ApiError::parsing(format!("[{kind}] query doesn't support multiple fields"))),
    }
}

/// A scalar as the text it is compared with.
fn scalar(json: &Json) -> Option<String> {
    match json {
        Json::String(text) => Some(text.clone()),
        Json::Number(n) => Some(Number::of_json(n).map_or_else(|| n.to_string(), Number::text)),
        Json::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

fn texts(json: Option<&Json>) -> Result<Vec<String>, ApiError> {
    let items = json.and_then(Json::as_array).ok_or_else(|| ApiError::parsing("a list of values is expected"))?;
    if items.len() > MAX_TERMS {
        return Err(ApiError::argument(format!("{} terms, {MAX_TERMS} are allowed", items.len())));
    }
    items
        .iter()
        .map(|item| scalar(item).ok_or_else(|| ApiError::parsing("values must be strings, numbers or booleans")))
        .collect()
}

fn term(body: &Json) -> Result<Query, ApiError> {
    let (field, of) = field_of(body, "term")?;
    let (value, ignore_case) = match of {
        Json::Object(options) => (options.get("value"), options.get("case_insensitive") == Some(&Json::Bool(true))),
        value => (Some(value), false),
    };
    let value = value.and_then(scalar).ok_or_else(|| ApiError::argument("value cannot be null"))?;
    Ok(Query::terms(field, vec![value], ignore_case))
}

fn terms(body: &Json) -> Result<Query, ApiError> {
    let (field, of) = field_of(body, "terms")?;
    Ok(Query::terms(field, texts(Some(of))?, false))
}

fn range(body: &Json, context: Context<'_>) -> Result<Query, ApiError> {
    let (field, of) = field_of(body, "range")?;
    let options =
        of.as_object().ok_or_else(|| ApiError::parsing("[range] query malformed, no start_object after field"))?;
    let zone = match options.get("time_zone").and_then(Json::as_str) {
        Some(name) => Zone::parse(name).ok_or_else(|| ApiError::argument(format!("unknown time zone [{name}]")))?,
        None => Zone::default(),
    };
    let millis = options.get("format").and_then(Json::as_str).is_none_or(|f| f.contains("epoch_millis"));
    let seconds = options.get("format").and_then(Json::as_str) == Some("epoch_second");
    let mut found = Range { field: field.clone(), ..Range::default() };
    for (name, value) in options {
        let (is_low, inclusive) = match name.as_str() {
            "gte" | "from" => (true, true),
            "gt" => (true, false),
            "lte" | "to" => (false, true),
            "lt" => (false, false),
            "format" | "time_zone" | "boost" | "relation" | "_name" | "include_lower" | "include_upper" => continue,
            other => return Err(ApiError::parsing(format!("[range] query does not support [{other}]"))),
        };
        if value.is_null() {
            continue;
        }
        let text = scalar(value)
            .ok_or_else(|| ApiError::parsing(format!("[range] bound [{name}] must be a string or a number")))?;
        let up = matches!(name.as_str(), "lte" | "to" | "gt");
        let number = Number::parse(&text);
        let time_ns = if seconds {
            number.map(|s| (s.as_f64() * 1e9) as i64)
        } else {
            let whole = number.filter(|_| millis && (value.is_number() || text.len() > 4));
            whole
                .map(|ms| time::of_millis(ms.as_f64()))
                .or_else(|| time::math(&text, context.now_ns, zone.fixed(context.now_ns / 1_000_000), up))
        };
        if field == TIMESTAMP && time_ns.is_none() {
            return Err(ApiError::parsing(format!(
                "failed to parse date field [{text}] with format [strict_date_optional_time||epoch_millis]"
            )));
        }
        let bound = Some(Bound { inclusive, time_ns, number, text });
        if is_low { found.low = bound } else { found.high = bound }
    }
    Ok(Query::Range(found))
}

fn matching(body: &Json) -> Result<Query, ApiError> {
    let (field, of) = field_of(body, "match")?;
    let (query, and, least) = match of {
        Json::Object(options) => (
            options.get("query"),
            options.get("operator").and_then(Json::as_str).is_some_and(|o| o.eq_ignore_ascii_case("and")),
            options.get("minimum_should_match"),
        ),
        value => (Some(value), false, None),
    };
    if of.get("fuzziness").is_some() {
        return Err(ApiError::not_yet("fuzziness"));
    }
    let text = query.and_then(scalar).ok_or_else(|| ApiError::parsing("[match] requires query value"))?;
    if words(&text).is_empty() && of.get("zero_terms_query").and_then(Json::as_str) == Some("all") {
        return Ok(Query::All);
    }
    Ok(match_at_least(field, &text, |of| if and { of } else { minimum(least, of) }))
}

fn phrase(body: &Json, prefix: bool) -> Result<Query, ApiError> {
    let (field, of) = field_of(body, "match_phrase")?;
    let query = match of {
        Json::Object(options) if options.get("slop").and_then(Json::as_u64).unwrap_or(0) > 0 => {
            return Err(ApiError::not_yet("slop"));
        }
        Json::Object(options) => options.get("query"),
        value => Some(value),
    };
    let text = query.and_then(scalar).ok_or_else(|| ApiError::parsing("[match_phrase] requires query value"))?;
    Ok(phrase_words(field, &text, prefix))
}

fn multi_match(body: &Json) -> Result<Query, ApiError> {
    let text =
        body.get("query").and_then(scalar).ok_or_else(|| ApiError::parsing("[multi_match] requires query value"))?;
    let fields = match body.get("fields") {
        None => vec![MESSAGE.to_owned()],
        some => texts(some)?,
    };
    let kind = body.get("type").and_then(Json::as_str).unwrap_or("best_fields");
    if kind == "cross_fields" {
        return Err(ApiError::not_yet("multi_match of type cross_fields"));
    }
    if body.get("fuzziness").is_some() {
        return Err(ApiError::not_yet("fuzziness"));
    }
    let and = body.get("operator").and_then(Json::as_str).is_some_and(|o| o.eq_ignore_ascii_case("and"));
    let should =
        fields
            .iter()
            .map(|field| {
                let field = field.split('^').next().unwrap_or(field);
                match kind {
                    "phrase" => phrase_words(field, &text, false),
                    "phrase_prefix" => phrase_words(field, &text, true),
                    _ => match_at_least(field, &text, |of| {
                        if and { of } else { minimum(body.get("minimum_should_match"), of) }
                    }),
                }
            })
            .collect();
    Ok(Query::Bool { must: Vec::new(), should, must_not: Vec::new(), at_least: 1 })
}

fn pattern(
    body: &Json,
    (kind, key): (&str, &str),
    to_regex: impl Fn(&str) -> String,
    bounds: &Bounds,
) -> Result<Query, ApiError> {
    let (field, of) = field_of(body, kind)?;
    let (value, ignore_case) = match of {
        Json::Object(options) => (options.get(key), options.get("case_insensitive") == Some(&Json::Bool(true))),
        value => (Some(value), false),
    };
    let text =
        value.and_then(Json::as_str).ok_or_else(|| ApiError::argument(format!("[{kind}] value cannot be null")))?;
    regex_query(field, &to_regex(text), ignore_case, bounds)
}

fn boolean(body: &Json, context: Context<'_>) -> Result<Query, ApiError> {
    let object = body
        .as_object()
        .ok_or_else(|| ApiError::parsing("[bool] query malformed, no start_object after query name"))?;
    let clauses = |json: &Json| -> Result<Vec<Query>, ApiError> {
        match json {
            Json::Array(items) => items.iter().map(|item| parse(item, context)).collect(),
            one => Ok(vec![parse(one, context)?]),
        }
    };
    let (mut must, mut should, mut must_not) = (Vec::new(), Vec::new(), Vec::new());
    for (name, value) in object {
        match name.as_str() {
            "must" | "filter" => must.extend(clauses(value)?),
            "should" => should.extend(clauses(value)?),
            "must_not" | "mustNot" => must_not.extend(clauses(value)?),
            "minimum_should_match" | "boost" | "_name" | "adjust_pure_negative" => {}
            other => return Err(ApiError::parsing(format!("[bool] query does not support [{other}]"))),
        }
    }
    let at_least = match object.get("minimum_should_match") {
        Some(least) => minimum(Some(least), should.len()),
        // Beside `must` or `filter`, `should` only moves scores.
        None if must.is_empty() && !should.is_empty() => 1,
        None => 0,
    };
    Ok(Query::Bool { must, should, must_not, at_least })
}

/// `2`, `-1`, `75%`, `-25%`.
fn minimum(least: Option<&Json>, of: usize) -> usize {
    let Some(text) = least.and_then(scalar) else { return 0 };
    let count = of as f64;
    let number = match text.strip_suffix('%').map(str::parse::<f64>) {
        Some(Ok(percent)) if percent < 0.0 => count - (count * -percent / 100.0).floor(),
        Some(Ok(percent)) => (count * percent / 100.0).floor(),
        Some(Err(_)) => 1.0,
        None => match text.parse::<f64>() {
            Ok(n) if n < 0.0 => count + n,
            Ok(n) => n,
            Err(_) => 1.0,
        },
    };
    // Casting saturates: negative becomes 0.
    number as usize
}

fn string(body: &Json, kind: &str, context: Context<'_>) -> Result<Query, ApiError> {
    let text = body
        .get("query")
        .and_then(scalar)
        .ok_or_else(|| ApiError::parsing(format!("[{kind}] must be provided with a [query]")))?;
    let fields = match (body.get("default_field").and_then(Json::as_str), body.get("fields")) {
        (Some("*") | None, None) => Vec::new(),
        (Some(field), None) => vec![field.to_owned()],
        (_, some) => {
            texts(some)?.iter().map(|f| f.split('^').next().unwrap_or(f).to_owned()).filter(|f| f != "*").collect()
        }
    };
    let and = body.get("default_operator").and_then(Json::as_str).is_some_and(|o| o.eq_ignore_ascii_case("and"));
    if kind == "simple_query_string" {
        return Ok(query_string::simple(&text, &fields, and));
    }
    query_string::parse(&text, &fields, and, context.now_ns, context.bounds)
}
