//! Which functions of VRL's standard library programs may call.
//!
//! In: nothing. Out: the list for the compiler. Touches nothing.
//!
//! Named one by one, so that the linker leaves the rest out. Left out on purpose:
//! * what reaches the network, the environment, files or processes (`http_request`, `dns_lookup`, `get_env_var`,
//!   `get_hostname`, enrichment …): a line must never make the agent act;
//! * what unpacks without a bound (`decode_gzip`, `decode_zstd` …) or recurses without one (`parse_ruby_hash`): a line
//!   must never exhaust memory or stack; `parse_xml` and `parse_yaml` for the same reason;
//! * `log`, which writes to the log that the agent may be reading;
//! * what gives another answer each time (`random_*`, `uuid_v4` …): a line that is read again after a crash must give
//!   the same record. `now` stays, to tell how old a line is.

use vrl::compiler::Function;
use vrl::stdlib as f;

/// Names to functions.
macro_rules! functions {
    ($($name:ident),* $(,)?) => { vec![$(Box::new(f::$name) as Box<dyn Function>),*] };
}

/// All that programs may call.
pub(super) fn all() -> Vec<Box<dyn Function>> {
    [
        types_and_checks(),
        objects_arrays_and_paths(),
        texts(),
        numbers_and_times(),
        formats_of_lines(),
        encodings(),
        addresses_and_syslog_numbers(),
        hashes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Types and checks.
fn types_and_checks() -> Vec<Box<dyn Function>> {
    functions![
        Array,
        Assert,
        AssertEq,
        Boolean,
        Exists,
        Float,
        Integer,
        IsArray,
        IsBoolean,
        IsEmpty,
        IsFloat,
        IsInteger,
        IsIpv4,
        IsIpv6,
        IsJson,
        IsNull,
        IsNullish,
        IsObject,
        IsRegex,
        IsString,
        IsTimestamp,
        Object,
        String,
        TagTypesExternally,
        Timestamp,
        ToBool,
        ToFloat,
        ToInt,
        ToRegex,
        ToString,
        TypeDef,
    ]
}

/// Objects, arrays and paths.
fn objects_arrays_and_paths() -> Vec<Box<dyn Function>> {
    functions![
        Append,
        Chunks,
        Compact,
        Del,
        Filter,
        Flatten,
        ForEach,
        FromEntries,
        Get,
        Includes,
        Keys,
        Length,
        MapKeys,
        MapValues,
        MatchArray,
        Merge,
        ObjectFromArray,
        Pop,
        Push,
        Range,
        Remove,
        Set,
        Tally,
        TallyValue,
        ToEntries,
        Unflatten,
        Unique,
        Values,
        Zip,
    ]
}

/// Texts.
fn texts() -> Vec<Box<dyn Function>> {
    functions![
        BaseName,
        Camelcase,
        Contains,
        ContainsAll,
        DirName,
        Downcase,
        EndsWith,
        Find,
        Join,
        Kebabcase,
        Match,
        MatchAny,
        Pascalcase,
        Redact,
        Replace,
        ReplaceWith,
        ScreamingSnakecase,
        ShannonEntropy,
        Sieve,
        Slice,
        Snakecase,
        Split,
        SplitPath,
        StartsWith,
        StripAnsiEscapeCodes,
        StripWhitespace,
        Strlen,
        Truncate,
        Upcase,
    ]
}

/// Numbers and times.
fn numbers_and_times() -> Vec<Box<dyn Function>> {
    functions![
        Abs,
        Ceil,
        Floor,
        FormatInt,
        FormatNumber,
        FormatTimestamp,
        FromUnixTimestamp,
        Mod,
        Now,
        ParseBytes,
        ParseDuration,
        ParseFloat,
        ParseInt,
        ParseTimestamp,
        Round,
        ToUnixTimestamp,
    ]
}

/// Formats of lines.
fn formats_of_lines() -> Vec<Box<dyn Function>> {
    functions![
        ParseApacheLog,
        ParseAwsAlbLog,
        ParseAwsVpcFlowLog,
        ParseCef,
        ParseCommonLog,
        ParseCsv,
        ParseGlog,
        ParseGrok,
        ParseGroks,
        ParseJson,
        ParseKeyValue,
        ParseKlog,
        ParseLinuxAuthorization,
        ParseLogFmt,
        ParseNginxLog,
        ParseQueryString,
        ParseRegex,
        ParseRegexAll,
        ParseSyslog,
        ParseTokens,
        ParseUrl,
        ParseUserAgent,
    ]
}

/// Encodings.
fn encodings() -> Vec<Box<dyn Function>> {
    functions![
        DecodeBase16,
        DecodeBase64,
        DecodePercent,
        EncodeBase16,
        EncodeBase64,
        EncodeCsv,
        EncodeJson,
        EncodeKeyValue,
        EncodeLogfmt,
        EncodePercent,
    ]
}

/// Addresses and syslog's numbers.
fn addresses_and_syslog_numbers() -> Vec<Box<dyn Function>> {
    functions![
        IpAton,
        IpCidrContains,
        IpNtoa,
        IpSubnet,
        IpToIpv6,
        Ipv6ToIpV4,
        ToSyslogFacility,
        ToSyslogFacilityCode,
        ToSyslogLevel,
        ToSyslogSeverity,
    ]
}

/// Hashes.
fn hashes() -> Vec<Box<dyn Function>> {
    functions![Crc, Hmac, Md5, Seahash, Sha1, Sha2, Sha3, Xxhash,]
}
