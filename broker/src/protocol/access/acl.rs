//! Access rules: who may do what with which resource from where, and how one is looked up.
//!
//! In: bindings as CreateAcls brings them. Out: a decision per request, without taking memory; bindings by filter.
//! Touches nothing. The rules of Apache Kafka's StandardAuthorizer: a rule for the literal name, for `*` and for a
//! prefix of the name all count, a deny outdoes every allow, some operations imply others (KIP-11, KIP-290).

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Name of the one resource of kind cluster.
pub(crate) const CLUSTER_NAME: &str = "kafka-cluster";
const ANYBODY: &str = "User:*";
const ANY: &str = "*";

macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $number:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub(crate) enum $name { $($(#[$variant_doc])* $variant = $number),+ }

        impl $name {
            /// By its number on the wire.
            pub fn of(number: i8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

wire_enum! {
    /// What a rule is about.
    Kind { Topic = 2, Group = 3, Cluster = 4, TransactionalId = 5, DelegationToken = 6, User = 7 }
}
wire_enum! {
    /// What somebody wants to do.
    Operation {
        All = 2, Read = 3, Write = 4, Create = 5, Delete = 6, Alter = 7, Describe = 8, ClusterAction = 9,
        DescribeConfigs = 10, AlterConfigs = 11, IdempotentWrite = 12, CreateTokens = 13, DescribeTokens = 14,
        TwoPhaseCommit = 15,
    }
}
wire_enum! {
    /// How a rule names its resources.
    Pattern { Literal = 3, Prefixed = 4 }
}
wire_enum! {
    /// Which way a rule goes.
    Permission { Deny = 2, Allow = 3 }
}

impl Kind {
    /// Operations that exist for it, as bits.
    pub const fn operations(self) -> i32 {
        match self {
            Self::Topic => 0x0df8,
            Self::Group => 0x0d48,
            Self::Cluster => 0x1fa0,
            Self::TransactionalId => 0x8110,
            Self::DelegationToken => 0x0100,
            Self::User => 0x6000,
        }
    }
}

impl Operation {
    const EVERY: [Self; 14] = [
        Self::All,
        Self::Read,
        Self::Write,
        Self::Create,
        Self::Delete,
        Self::Alter,
        Self::Describe,
        Self::ClusterAction,
        Self::DescribeConfigs,
        Self::AlterConfigs,
        Self::IdempotentWrite,
        Self::CreateTokens,
        Self::DescribeTokens,
        Self::TwoPhaseCommit,
    ];

    /// Those among the operations that are bits of `mask`.
    pub fn within(mask: i32) -> impl Iterator<Item = Self> {
        Self::EVERY.into_iter().filter(move |op| mask & op.bit() != 0)
    }

    /// Its place in a bit field.
    pub const fn bit(self) -> i32 {
        1 << self as i8
    }

    /// Whether a rule that allows `self` allows `wanted`.
    fn grants(self, wanted: Self) -> bool {
        self.forbids(wanted)
            || match wanted {
                Self::Describe => matches!(self, Self::Read | Self::Write | Self::Delete | Self::Alter),
                Self::DescribeConfigs => self == Self::AlterConfigs,
                _ => false,
            }
    }

    /// Whether a rule that denies `self` denies `wanted`.
    fn forbids(self, wanted: Self) -> bool {
        self == Self::All || self == wanted
    }
}

/// One rule as clients know it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Binding {
    pub kind: Kind,
    pub name: String,
    pub pattern: Pattern,
    pub principal: String,
    pub host: String,
    pub operation: Operation,
    pub permission: Permission,
}

/// Which resource names a filter means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PatternFilter {
    /// Rules of this name, whatever their pattern.
    Any,
    /// Rules that have a say about a resource of this name.
    Match,
    /// Rules of this name and pattern.
    Exactly(Pattern),
}

impl PatternFilter {
    /// By its number on the wire.
    pub fn of(number: i8) -> Option<Self> {
        match number {
            1 => Some(Self::Any),
            2 => Some(Self::Match),
            other => Pattern::of(other).map(Self::Exactly),
        }
    }
}

/// Which rules are meant; absent parts mean all.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    pub kind: Option<Kind>,
    pub name: Option<String>,
    pub pattern: PatternFilter,
    pub principal: Option<String>,
    pub host: Option<String>,
    pub operation: Option<Operation>,
    pub permission: Option<Permission>,
}

impl Filter {
    fn names(&self, binding: &Binding) -> bool {
        let Some(name) = &self.name else {
            return !matches!(self.pattern, PatternFilter::Exactly(pattern) if pattern != binding.pattern);
        };
        match self.pattern {
            PatternFilter::Any => binding.name == *name,
            PatternFilter::Exactly(pattern) => binding.pattern == pattern && binding.name == *name,
            PatternFilter::Match => match binding.pattern {
                Pattern::Literal => binding.name == *name || binding.name == ANY,
                Pattern::Prefixed => name.starts_with(&binding.name),
            },
        }
    }

    /// Whether it means a rule.
    pub fn matches(&self, binding: &Binding) -> bool {
        self.kind.is_none_or(|kind| kind == binding.kind)
            && self.names(binding)
            && self.principal.as_ref().is_none_or(|p| *p == binding.principal)
            && self.host.as_ref().is_none_or(|h| *h == binding.host)
            && self.operation.is_none_or(|o| o == binding.operation)
            && self.permission.is_none_or(|p| p == binding.permission)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    Any,
    Address(IpAddr),
    /// A name or a range, which no client's address equals.
    Never,
}

/// A rule as it is looked up.
#[derive(Debug)]
struct AclEntry {
    /// Absent: anybody.
    principal: Option<String>,
    host: Host,
    operation: Operation,
    permission: Permission,
}

impl AclEntry {
    fn of(binding: &Binding) -> Self {
        let host = match binding.host.as_str() {
            ANY => Host::Any,
            text => text.parse().map_or(Host::Never, |address: IpAddr| Host::Address(address.to_canonical())),
        };
        let principal = (binding.principal != ANYBODY).then(|| binding.principal.clone());
        Self { principal, host, operation: binding.operation, permission: binding.permission }
    }

    fn is_about(&self, who: &str, from: IpAddr) -> bool {
        self.principal.as_ref().is_none_or(|p| p == who)
            && match self.host {
                Host::Any => true,
                Host::Address(address) => address == from,
                Host::Never => false,
            }
    }

    fn denies(&self, operation: Operation) -> bool {
        self.permission == Permission::Deny && self.operation.forbids(operation)
    }

    fn allows(&self, operation: Operation) -> bool {
        self.permission == Permission::Allow && self.operation.grants(operation)
    }
}

/// The rules of one kind of resource.
#[derive(Debug, Default)]
struct Table {
    literal: HashMap<String, Vec<AclEntry>>,
    prefixed: HashMap<String, Vec<AclEntry>>,
    /// Lengths of the prefixes, so that a name is only tried at these.
    lengths: BTreeSet<usize>,
}

impl Table {
    /// All rules that have a say about a name.
    fn about<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a AclEntry> {
        let any = if name == ANY { None } else { self.literal.get(ANY) };
        let prefixes = self.lengths.iter().take_while(|length| **length <= name.len());
        let prefixed = prefixes.filter_map(|length| self.prefixed.get(name.get(..*length)?));
        self.literal.get(name).into_iter().chain(any).chain(prefixed).flatten()
    }
}

/// What the rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    Denied,
    /// No rule names the resource.
    Silent,
}

/// All rules, ready to be asked.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    bindings: BTreeSet<Binding>,
    tables: HashMap<Kind, Table>,
}

impl Rules {
    /// Makes them ready.
    pub fn new(bindings: BTreeSet<Binding>) -> Self {
        let mut tables: HashMap<Kind, Table> = HashMap::new();
        for binding in &bindings {
            let table = tables.entry(binding.kind).or_default();
            let names = match binding.pattern {
                Pattern::Literal => &mut table.literal,
                Pattern::Prefixed => {
                    table.lengths.insert(binding.name.len());
                    &mut table.prefixed
                }
            };
            names.entry(binding.name.clone()).or_default().push(AclEntry::of(binding));
        }
        Self { bindings, tables }
    }

    /// As clients brought them.
    pub fn bindings(&self) -> &BTreeSet<Binding> {
        &self.bindings
    }

    /// Whether somebody at an address may do something.
    pub fn ask(&self, who: &str, from: IpAddr, operation: Operation, kind: Kind, name: &str) -> Verdict {
        let Some(table) = self.tables.get(&kind) else { return Verdict::Silent };
        let mut verdict = Verdict::Silent;
        for entry in table.about(name) {
            let concerns = entry.is_about(who, from);
            if concerns && entry.denies(operation) {
                return Verdict::Denied;
            }
            verdict = match verdict {
                Verdict::Allowed => Verdict::Allowed,
                _ if concerns && entry.allows(operation) => Verdict::Allowed,
                _ => Verdict::Denied,
            };
        }
        verdict
    }

    /// Whether there is any resource of a kind that somebody may do something with (KIP-679).
    pub fn ask_any(&self, who: &str, from: IpAddr, operation: Operation, kind: Kind) -> Verdict {
        let Some(table) = self.tables.get(&kind) else { return Verdict::Silent };
        let denied = |entries: Option<&Vec<AclEntry>>| {
            entries.is_some_and(|list| list.iter().any(|e| e.is_about(who, from) && e.denies(operation)))
        };
        let allowed = |entries: &Vec<AclEntry>| entries.iter().any(|e| e.is_about(who, from) && e.allows(operation));
        if denied(table.literal.get(ANY)) {
            return Verdict::Denied;
        }
        let prefix_denied = |name: &str| {
            let mut lengths = table.lengths.iter().take_while(|length| **length <= name.len());
            lengths.any(|length| denied(name.get(..*length).and_then(|prefix| table.prefixed.get(prefix))))
        };
        let literal = table
            .literal
            .iter()
            .any(|(name, entries)| allowed(entries) && !denied(Some(entries)) && !prefix_denied(name));
        let is_allowed =
            literal || table.prefixed.iter().any(|(prefix, entries)| allowed(entries) && !prefix_denied(prefix));
        if is_allowed { Verdict::Allowed } else { Verdict::Denied }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `kind name pattern principal host operation permission`
    fn binding(text: &str) -> Binding {
        let w: Vec<&str> = text.split_whitespace().collect();
        let json = serde_json::json!({
            "kind": w[0], "name": w[1], "pattern": w[2], "principal": w[3], "host": w[4], "operation": w[5], "permission": w[6],
        });
        serde_json::from_value(json).unwrap()
    }

    fn rules(list: &[&str]) -> Rules {
        Rules::new(list.iter().map(|text| binding(text)).collect())
    }

    #[test]
    fn verdicts_of_rules() {
        let rules = rules(&[
            "topic logs literal User:ann * read allow",
            "topic logs literal User:bob 10.0.0.1 write allow",
            "topic secret literal User:* * read deny",
            "topic * literal User:carl * all allow",
            "topic app- prefixed User:dora * alter allow",
            "topic app-x literal User:dora * describe deny",
            "topic open literal User:* * alter-configs allow",
            "topic name literal User:ann host.example read allow",
            "group g literal User:ann * delete allow",
        ]);
        for (who, from, operation, kind, name, want) in [
            ("ann", "10.0.0.9", Operation::Read, Kind::Topic, "logs", Verdict::Allowed),
            ("ann", "10.0.0.9", Operation::Describe, Kind::Topic, "logs", Verdict::Allowed),
            ("ann", "10.0.0.9", Operation::Write, Kind::Topic, "logs", Verdict::Denied),
            ("bob", "10.0.0.1", Operation::Write, Kind::Topic, "logs", Verdict::Allowed),
            ("bob", "10.0.0.2", Operation::Write, Kind::Topic, "logs", Verdict::Denied),
            ("carl", "10.0.0.2", Operation::Write, Kind::Topic, "anything", Verdict::Allowed),
            ("carl", "10.0.0.2", Operation::Read, Kind::Topic, "secret", Verdict::Denied),
            ("carl", "10.0.0.2", Operation::Write, Kind::Topic, "secret", Verdict::Allowed),
            ("dora", "::1", Operation::Alter, Kind::Topic, "app-", Verdict::Allowed),
            ("dora", "::1", Operation::Describe, Kind::Topic, "app-yz", Verdict::Allowed),
            ("dora", "::1", Operation::Describe, Kind::Topic, "app-x", Verdict::Denied),
            ("dora", "::1", Operation::Alter, Kind::Topic, "app-x", Verdict::Allowed),
            ("dora", "::1", Operation::Alter, Kind::Topic, "app", Verdict::Denied),
            ("eve", "::1", Operation::DescribeConfigs, Kind::Topic, "open", Verdict::Allowed),
            ("eve", "::1", Operation::Describe, Kind::Topic, "open", Verdict::Denied),
            ("ann", "10.0.0.9", Operation::Read, Kind::Topic, "name", Verdict::Denied),
            ("ann", "10.0.0.9", Operation::Describe, Kind::Group, "g", Verdict::Allowed),
            ("ann", "10.0.0.9", Operation::Describe, Kind::Group, "h", Verdict::Silent),
            ("ann", "10.0.0.9", Operation::Describe, Kind::Cluster, CLUSTER_NAME, Verdict::Silent),
        ] {
            let from = from.parse().unwrap();
            let got = rules.ask(&format!("User:{who}"), from, operation, kind, name);
            assert_eq!(got, want, "{who}@{from} {operation:?} {kind:?} {name}");
        }
    }

    #[test]
    fn any_resource_of_a_kind() {
        let from = "10.0.0.1".parse().unwrap();
        for (list, want) in [
            (&["topic a literal User:ann * write allow"][..], Verdict::Allowed),
            (&["topic a literal User:ann * read allow"], Verdict::Denied),
            (&["topic a literal User:bob * write allow"], Verdict::Denied),
            (&["topic a literal User:ann * write allow", "topic * literal User:ann * all deny"], Verdict::Denied),
            (&["topic a literal User:ann * write allow", "topic a literal User:ann * write deny"], Verdict::Denied),
            (&["topic ab literal User:ann * write allow", "topic a prefixed User:* * write deny"], Verdict::Denied),
            (&["topic b literal User:ann * all allow", "topic a prefixed User:* * write deny"], Verdict::Allowed),
            (&["topic ab prefixed User:ann * all allow", "topic a prefixed User:* * write deny"], Verdict::Denied),
            (&["topic a prefixed User:ann * all allow", "topic ab prefixed User:* * write deny"], Verdict::Allowed),
            (&["group a prefixed User:ann * all allow"], Verdict::Silent),
        ] {
            assert_eq!(rules(list).ask_any("User:ann", from, Operation::Write, Kind::Topic), want, "{list:?}");
        }
    }

    #[test]
    fn filters() {
        let list = ["a literal", "ab prefixed", "* literal", "abc literal"]
            .map(|name| binding(&format!("topic {name} User:ann * read allow")));
        let all = Filter {
            kind: None,
            name: None,
            pattern: PatternFilter::Any,
            principal: None,
            host: None,
            operation: None,
            permission: None,
        };
        let named = |name: &str, pattern| Filter { name: Some(name.to_owned()), pattern, ..all.clone() };
        for (filter, want) in [
            (all.clone(), "1111"),
            (Filter { kind: Some(Kind::Group), ..all.clone() }, "0000"),
            (Filter { pattern: PatternFilter::Exactly(Pattern::Prefixed), ..all.clone() }, "0100"),
            (named("ab", PatternFilter::Any), "0100"),
            (named("abc", PatternFilter::Match), "0111"),
            (named("abc", PatternFilter::Exactly(Pattern::Literal)), "0001"),
            (Filter { operation: Some(Operation::Write), ..all.clone() }, "0000"),
            (Filter { permission: Some(Permission::Deny), ..all.clone() }, "0000"),
            (Filter { principal: Some("User:ann".to_owned()), host: Some("*".to_owned()), ..all }, "1111"),
        ] {
            let got: String = list.iter().map(|b| if filter.matches(b) { '1' } else { '0' }).collect();
            assert_eq!(got, want, "{filter:?}");
        }
    }

    #[test]
    fn numbers_of_the_wire() {
        for number in 0..=20 {
            assert_eq!(Operation::of(number).map(|o| o as i8), (2..=15).contains(&number).then_some(number));
            assert_eq!(Kind::of(number).map(|k| k as i8), (2..=7).contains(&number).then_some(number));
        }
        assert_eq!(Operation::within(Kind::Topic.operations()).count(), 8);
    }
}
