//! The assignors of the server: `uniform` and `range`. Pure.
//!
//! In: members with the topics they read, the number of partitions of each topic, and what everybody had before. Out:
//! who gets what. Both keep what members have as far as balance allows; the same input always gives the same answer.
//!
//! `uniform` spreads partitions so that loads differ by one at most where all members read the same topics; where they
//! do not, no single move makes it more even. `range` gives each member a run of neighbouring partitions of every topic
//! it reads, the same run in all topics that have the same readers and the same number of partitions, so that they can
//! be joined.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use uuid::Uuid;

/// Partitions by topic id.
pub type Assignment = BTreeMap<Uuid, BTreeSet<i32>>;

/// The assignors by name, the default first (`group.consumer.assignors`).
pub const ASSIGNORS: [&str; 2] = ["uniform", "range"];

/// A member as assignors see it.
#[derive(Debug, Clone, Default)]
pub struct Reader {
    /// Topics it reads, those that exist.
    pub topics: BTreeSet<Uuid>,
    /// What it had before.
    pub had: Assignment,
    /// `group.instance.id`, which orders members before their ids do.
    pub instance_id: Option<String>,
}

/// All that an assignor looks at.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    /// Members by id.
    pub members: BTreeMap<String, Reader>,
    /// Number of partitions of each topic that anybody reads.
    pub partitions: BTreeMap<Uuid, i32>,
}

type Tp = (Uuid, i32);

/// Shares out all partitions by the assignor of that name, `uniform` if there is none.
pub fn assign(assignor: &str, spec: &Spec) -> BTreeMap<String, Assignment> {
    if assignor == "range" { range(spec) } else { uniform(spec) }
}

fn uniform(spec: &Spec) -> BTreeMap<String, Assignment> {
    let ids: Vec<&String> = spec.members.keys().collect();
    let readers: Vec<&Reader> = spec.members.values().collect();
    let mut given: Vec<BTreeSet<Tp>> = vec![BTreeSet::new(); readers.len()];
    let is_read = |topic: &Uuid| readers.iter().any(|reader| reader.topics.contains(topic));
    let all: BTreeSet<Tp> =
        spec.partitions.iter().filter(|(t, _)| is_read(t)).flat_map(|(t, n)| (0..*n).map(|p| (*t, p))).collect();

    // What everybody had stays where it is, as far as it may.
    let mut free: BTreeSet<Tp> = all.clone();
    for (member, reader) in readers.iter().enumerate() {
        for (topic, partitions) in reader.had.iter().filter(|(topic, _)| reader.topics.contains(*topic)) {
            for tp in partitions.iter().map(|p| (*topic, *p)) {
                if free.remove(&tp) {
                    given.get_mut(member).map(|set| set.insert(tp));
                }
            }
        }
    }
    let alike = readers.windows(2).all(|pair| matches!(pair, [a, b] if a.topics == b.topics));
    if alike {
        level(&mut given, &mut free, all.len());
    } else {
        spread(&readers, &mut given, free);
        even_out(&readers, &mut given);
    }
    ids.into_iter().cloned().zip(given.into_iter().map(|set| gather(&set))).collect()
}

fn gather(set: &BTreeSet<Tp>) -> Assignment {
    let mut assignment = Assignment::new();
    for (topic, partition) in set {
        assignment.entry(*topic).or_default().insert(*partition);
    }
    assignment
}

/// All members read the same: everybody gets `total / members`, some one more, and those are the ones who had more.
fn level(given: &mut [BTreeSet<Tp>], free: &mut BTreeSet<Tp>, total: usize) {
    if given.is_empty() {
        return;
    }
    let (least, mut extra) = (total / given.len(), total % given.len());
    let mut by_load: Vec<usize> = (0..given.len()).collect();
    by_load.sort_by_key(|m| Reverse(given.get(*m).map_or(0, BTreeSet::len)));
    let mut quotas = vec![least; given.len()];
    for member in by_load {
        if extra == 0 {
            break;
        }
        if let Some(quota) = quotas.get_mut(member) {
            *quota += 1;
            extra -= 1;
        }
    }
    for (set, quota) in given.iter_mut().zip(&quotas) {
        while set.len() > *quota {
            free.extend(set.pop_last());
        }
    }
    // In turns, so that each topic is spread over the members.
    let mut is_done = false;
    while !is_done && !free.is_empty() {
        is_done = true;
        for (set, quota) in given.iter_mut().zip(&quotas) {
            if set.len() < *quota
                && let Some(tp) = free.pop_first()
            {
                set.insert(tp);
                is_done = false;
            }
        }
    }
}

/// Gives what nobody had to whoever has least of those who read it; topics with few readers come first.
fn spread(readers: &[&Reader], given: &mut [BTreeSet<Tp>], free: BTreeSet<Tp>) {
    let mut by_topic: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in free {
        by_topic.entry(topic).or_default().push(partition);
    }
    let who = |topic: &Uuid| -> Vec<usize> {
        readers.iter().enumerate().filter(|(_, r)| r.topics.contains(topic)).map(|(m, _)| m).collect()
    };
    let mut topics: Vec<(Vec<usize>, Uuid, Vec<i32>)> =
        by_topic.into_iter().map(|(topic, partitions)| (who(&topic), topic, partitions)).collect();
    topics.sort_by_key(|(who, topic, _)| (who.len(), *topic));
    for (who, topic, partitions) in topics {
        let mut heap: BinaryHeap<Reverse<(usize, usize)>> =
            who.iter().map(|m| Reverse((given.get(*m).map_or(0, BTreeSet::len), *m))).collect();
        for partition in partitions {
            let Some(Reverse((load, member))) = heap.pop() else { break };
            given.get_mut(member).map(|set| set.insert((topic, partition)));
            heap.push(Reverse((load + 1, member)));
        }
    }
}

/// Moves partitions from who has more to who has less, until no single move makes it more even. Each move brings the
/// sum of squares down, so it ends.
fn even_out(readers: &[&Reader], given: &mut [BTreeSet<Tp>]) {
    let mut readers_of: BTreeMap<Uuid, Vec<usize>> = BTreeMap::new();
    for (member, reader) in readers.iter().enumerate() {
        for topic in &reader.topics {
            readers_of.entry(*topic).or_default().push(member);
        }
    }
    let mut moved = true;
    while moved {
        moved = false;
        let mut by_load: Vec<usize> = (0..given.len()).collect();
        by_load.sort_by_key(|m| Reverse(given.get(*m).map_or(0, BTreeSet::len)));
        for from in by_load {
            loop {
                let loads: Vec<usize> = given.iter().map(BTreeSet::len).collect();
                let load = |m: usize| loads.get(m).copied().unwrap_or(0);
                let Some(set) = given.get(from) else { break };
                let topics: BTreeSet<Uuid> = set.iter().map(|(topic, _)| *topic).collect();
                let best = topics
                    .iter()
                    .filter_map(|topic| {
                        let to = readers_of.get(topic)?.iter().copied().min_by_key(|m| (load(*m), *m))?;
                        Some((load(to), to, *topic))
                    })
                    .min();
                let Some((least, to, topic)) = best else { break };
                if least + 2 > load(from) {
                    break;
                }
                let last = set.range((topic, i32::MIN)..=(topic, i32::MAX)).next_back().copied();
                let Some(tp) = last else { break };
                given.get_mut(from).map(|set| set.remove(&tp));
                given.get_mut(to).map(|set| set.insert(tp));
                moved = true;
            }
        }
    }
}

fn range(spec: &Spec) -> BTreeMap<String, Assignment> {
    // Topics with the same readers and the same number of partitions share their runs.
    let mut alike: BTreeMap<(i32, Vec<&String>), Vec<Uuid>> = BTreeMap::new();
    for (topic, count) in &spec.partitions {
        let who: Vec<&String> =
            spec.members.iter().filter(|(_, r)| r.topics.contains(topic)).map(|(id, _)| id).collect();
        if !who.is_empty() {
            alike.entry((*count, who)).or_default().push(*topic);
        }
    }
    let mut result: BTreeMap<String, Assignment> =
        spec.members.keys().map(|id| (id.clone(), Assignment::new())).collect();
    for ((count, who), topics) in alike {
        // Who had the lower partitions goes first, so that runs stay about where they are.
        let mut order: Vec<(i32, bool, Option<&String>, &String)> = who
            .into_iter()
            .map(|id| {
                let reader = spec.members.get(id);
                let had = reader.map(|r| topics.iter().filter_map(|t| r.had.get(t)?.first().copied()).min());
                let instance = reader.and_then(|r| r.instance_id.as_ref());
                (had.flatten().unwrap_or(i32::MAX), instance.is_none(), instance, id)
            })
            .collect();
        order.sort();
        let members = i32::try_from(order.len()).unwrap_or(i32::MAX);
        let (each, extra) = (count / members, count % members);
        let mut from = 0;
        for ((_, _, _, id), i) in order.into_iter().zip(0..) {
            let to = from + each + i32::from(i < extra);
            if to > from
                && let Some(assignment) = result.get_mut(id)
            {
                for topic in &topics {
                    assignment.insert(*topic, (from..to).collect());
                }
            }
            from = to;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn topic(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn spec(partitions: &[(u128, i32)], members: &[(&str, &[u128])]) -> Spec {
        let reader =
            |topics: &[u128]| Reader { topics: topics.iter().map(|t| topic(*t)).collect(), ..Reader::default() };
        Spec {
            members: members.iter().map(|(id, topics)| ((*id).to_owned(), reader(topics))).collect(),
            partitions: partitions.iter().map(|(t, count)| (topic(*t), *count)).collect(),
        }
    }

    fn shown(given: &BTreeMap<String, Assignment>) -> String {
        let one = |(id, a): (&String, &Assignment)| {
            let topics = a.iter().map(|(t, p)| format!("{}{:?}", t.as_u128(), p.iter().collect::<Vec<_>>()));
            format!("{id}={}", topics.collect::<Vec<_>>().join("+"))
        };
        given.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    /// A spec whose members had what `given` says.
    fn after(mut spec: Spec, given: &BTreeMap<String, Assignment>) -> Spec {
        for (id, reader) in &mut spec.members {
            reader.had = given.get(id).cloned().unwrap_or_default();
        }
        spec
    }

    #[test]
    fn both_assignors_by_example() {
        for (name, partitions, members, want) in [
            ("uniform", &[(1, 4)][..], &[("a", &[1][..]), ("b", &[1])][..], "a=1[0, 2] b=1[1, 3]"),
            ("uniform", &[(1, 3), (2, 2)], &[("a", &[1, 2]), ("b", &[1, 2])], "a=1[0, 2]+2[1] b=1[1]+2[0]"),
            ("uniform", &[(1, 1)], &[("a", &[1]), ("b", &[1])], "a=1[0] b="),
            ("uniform", &[(1, 2), (2, 2)], &[("a", &[1, 2]), ("b", &[2])], "a=1[0, 1] b=2[0, 1]"),
            ("range", &[(1, 5)], &[("a", &[1]), ("b", &[1])], "a=1[0, 1, 2] b=1[3, 4]"),
            ("range", &[(1, 3), (2, 3)], &[("a", &[1, 2]), ("b", &[1, 2])], "a=1[0, 1]+2[0, 1] b=1[2]+2[2]"),
            ("range", &[(1, 2)], &[("a", &[1]), ("b", &[1]), ("c", &[])], "a=1[0] b=1[1] c="),
            ("range", &[], &[("a", &[])], "a="),
            ("uniform", &[], &[], ""),
        ] {
            assert_eq!(shown(&assign(name, &spec(partitions, members))), want, "{name} {partitions:?} {members:?}");
        }
    }

    #[test]
    fn who_stays_keeps_what_balance_allows() {
        for (name, want) in [("uniform", "a=1[0, 2] b=1[1, 3] c=1[4, 5]"), ("range", "a=1[0, 1] b=1[2, 3] c=1[4, 5]")] {
            let two = assign(name, &spec(&[(1, 6)], &[("a", &[1]), ("b", &[1])]));
            let three = after(spec(&[(1, 6)], &[("a", &[1]), ("b", &[1]), ("c", &[1])]), &two);
            let three = assign(name, &three);
            assert_eq!(shown(&three), want, "{name}");
            let again = after(spec(&[(1, 6)], &[("a", &[1]), ("b", &[1]), ("c", &[1])]), &three);
            assert_eq!(shown(&assign(name, &again)), want, "{name}: nothing moves when nothing changed");
        }
    }

    fn random() -> impl Strategy<Value = Spec> {
        let member = proptest::collection::btree_set(1u128..5, 0..4);
        (
            proptest::collection::btree_map(1u128..5, 1i32..9, 1..5),
            proptest::collection::btree_map("[a-f]", member, 1..6),
        )
            .prop_map(|(partitions, members)| Spec {
                members: members
                    .into_iter()
                    .map(|(id, topics)| {
                        let topics = topics.into_iter().filter(|t| partitions.contains_key(t)).map(topic).collect();
                        (id, Reader { topics, ..Reader::default() })
                    })
                    .collect(),
                partitions: partitions.into_iter().map(|(t, count)| (topic(t), count)).collect(),
            })
    }

    proptest! {
        #[test]
        fn every_partition_has_one_reader_and_nothing_moves_twice(spec in random(), range in any::<bool>(), gone in 0usize..6) {
            let name = if range { "range" } else { "uniform" };
            let first = assign(name, &spec);
            check(&spec, &first, range)?;
            prop_assert_eq!(&assign(name, &after(spec.clone(), &first)), &first, "nothing changed, nothing moves");
            let mut less = after(spec, &first);
            if let Some(id) = less.members.keys().nth(gone).cloned() {
                less.members.remove(&id);
            }
            let second = assign(name, &less);
            check(&less, &second, range)?;
            let alike = less.members.values().map(|r| &r.topics).collect::<BTreeSet<_>>().len() == 1;
            if !range && alike {
                // Loads only grow when somebody leaves: nobody who stays loses anything.
                let total: i32 = less.members.values().next().map_or(0, |r| r.topics.iter().map(|t| less.partitions[t]).sum());
                let most = usize::try_from(total).unwrap().div_ceil(less.members.len());
                for (id, reader) in &less.members {
                    let had: usize = reader.had.values().map(BTreeSet::len).sum();
                    let kept: usize = reader.had.iter().map(|(t, p)| p.iter().filter(|p| second[id].get(t).is_some_and(|now| now.contains(p))).count()).sum();
                    prop_assert!(kept >= had.min(most.saturating_sub(1)), "{} keeps {} of {}", id, kept, had);
                }
            }
        }
    }

    fn check(spec: &Spec, given: &BTreeMap<String, Assignment>, range: bool) -> Result<(), TestCaseError> {
        let mut owners: BTreeMap<Tp, usize> = BTreeMap::new();
        for (id, assignment) in given {
            for (t, partitions) in assignment {
                prop_assert!(spec.members[id].topics.contains(t), "{} does not read it", id);
                prop_assert!(!partitions.is_empty());
                for p in partitions {
                    *owners.entry((*t, *p)).or_default() += 1;
                }
            }
        }
        for (t, count) in &spec.partitions {
            let is_read = spec.members.values().any(|r| r.topics.contains(t));
            for p in 0..*count {
                prop_assert_eq!(owners.get(&(*t, p)).copied().unwrap_or(0), usize::from(is_read));
            }
        }
        let loads: Vec<usize> = given.values().map(|a| a.values().map(BTreeSet::len).sum()).collect();
        let alike = spec.members.values().map(|r| &r.topics).collect::<BTreeSet<_>>().len() == 1;
        if !range && alike {
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{:?}", loads);
        }
        Ok(())
    }
}
