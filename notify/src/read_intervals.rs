//! `time_intervals` of `alertmanager.yml`, and the older `mute_time_intervals`.
//!
//! In: their nodes. Out: [`TimeInterval`]s by name; faults with their places. Touches nothing.

use std::collections::BTreeMap;

use millrace_log::yaml::{Fields, Node};

use crate::calendar::{self, TimeInterval};
use crate::reading::Reader;

const INTERVAL_KEYS: [&str; 6] = ["times", "weekdays", "days_of_month", "months", "years", "location"];

impl Reader {
    /// Reads one of the two lists into what there is already.
    pub(crate) fn intervals(&mut self, node: &Node, key: &str, found: &mut BTreeMap<String, Vec<TimeInterval>>) {
        for item in self.doc.list(node, &format!("`{key}`")) {
            let Some(fields) = self.doc.map(item, "a time interval", &["name", "time_intervals"]) else { continue };
            let Some(name) = fields.get("name") else {
                self.doc.fault(fields.place, "a time interval requires `name`", None);
                continue;
            };
            let Some(text) = self.doc.filled(name, "`name`") else { continue };
            let below = fields.get("time_intervals").map(|node| self.doc.list(node, "`time_intervals`"));
            let list = below.unwrap_or_default().iter().filter_map(|node| self.interval(node)).collect();
            if found.insert(text.to_owned(), list).is_some() {
                let message = format!("time interval `{text}` is defined twice");
                self.doc.fault(&name.place, message, Some("give one of them another name".into()));
            }
        }
    }

    fn interval(&mut self, node: &Node) -> Option<TimeInterval> {
        let fields = self.doc.map(node, "an entry of `time_intervals`", &INTERVAL_KEYS)?;
        let mut interval = TimeInterval {
            times: self.clocks(&fields),
            weekdays: self.ranges(&fields, "weekdays", calendar::weekdays),
            days_of_month: self.ranges(&fields, "days_of_month", calendar::days_of_month),
            months: self.ranges(&fields, "months", calendar::months),
            years: self.ranges(&fields, "years", calendar::years),
            ..TimeInterval::default()
        };
        if let Some(node) = fields.get("location")
            && let Some(text) = self.doc.text(node, "`location`")
        {
            match calendar::zone(text) {
                Ok(zone) => interval.zone = zone,
                Err(fault) => self.doc.fault(&node.place, fault, None),
            }
        }
        Some(interval)
    }

    fn clocks(&mut self, fields: &Fields<'_>) -> Vec<(u32, u32)> {
        let mut found = Vec::new();
        let list = fields.get("times").map(|node| self.doc.list(node, "`times`")).unwrap_or_default();
        for item in list {
            let Some(fields) = self.doc.map(item, "an entry of `times`", &["start_time", "end_time"]) else { continue };
            let (Some(start), Some(end)) = (fields.get("start_time"), fields.get("end_time")) else {
                self.doc.fault(fields.place, "an entry of `times` requires `start_time` and `end_time`", None);
                continue;
            };
            let (Some(from), Some(before)) = (self.clock(start), self.clock(end)) else { continue };
            if from >= before {
                let hint = Some("write two entries: one to 24:00 and one from 00:00".to_owned());
                self.doc.fault(&end.place, "`end_time` must be later than `start_time`", hint);
            }
            found.push((from, before));
        }
        found
    }

    fn clock(&mut self, node: &Node) -> Option<u32> {
        let text = self.doc.text(node, "a time")?;
        calendar::clock(text).map_err(|fault| self.doc.fault(&node.place, fault, None)).ok()
    }

    fn ranges(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        read: fn(&str) -> Result<(i32, i32), String>,
    ) -> Vec<(i32, i32)> {
        let mut found = Vec::new();
        let list = fields.get(key).map(|node| self.doc.list(node, &format!("`{key}`"))).unwrap_or_default();
        for item in list {
            let Some(text) = self.doc.text(item, &format!("an entry of `{key}`")) else { continue };
            match read(text) {
                Ok(range) => found.push(range),
                Err(fault) => self.doc.fault(&item.place, fault, None),
            }
        }
        found
    }
}
