//! The two text formats of `/metrics`: OpenMetrics 1.0, as the registries write it, and the format 0.0.4 that every
//! Prometheus and `promtool check metrics` read.
//!
//! In: OpenMetrics text, the header `Accept`. Out: the text in the format asked for. Touches nothing.
//! Sources: the OpenMetrics specification; "Exposition formats" of the Prometheus documentation.

/// Media type of OpenMetrics.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Media type of the older format.
pub const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether a client wants OpenMetrics: it names it, and with no lower weight than the older format.
pub fn wants_open_metrics(accept: &str) -> bool {
    let weight = |part: &str, kind: &str| {
        let mut parts = part.split(';').map(str::trim);
        let named = parts.next()?.eq_ignore_ascii_case(kind);
        let weight = parts.find_map(|p| p.strip_prefix("q=")?.parse::<f64>().ok()).unwrap_or(1.0);
        named.then_some(weight)
    };
    let best = |kind: &str| accept.split(',').filter_map(|part| weight(part, kind)).fold(0.0, f64::max);
    let open = best("application/openmetrics-text");
    open > 0.0 && open >= best("text/plain")
}

/// OpenMetrics in the format 0.0.4: there a counter's family has the name of its samples, and `# UNIT` and `# EOF` do not
/// exist.
pub fn plain(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len());
    let mut help: Option<(&str, &str)> = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "stateset" => ("", "gauge"),
                "unknown" => ("", "untyped"),
                "gaugehistogram" => ("", "histogram"),
                other => ("", other),
            };
            if let Some((_, text)) = help.take().filter(|(of, _)| *of == name) {
                out.push_str(&format!("# HELP {name}{suffix} {text}\n"));
            }
            out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::registry::{Registry, Unit};

    use super::*;

    #[test]
    fn clients_get_the_format_that_they_ask_for() {
        for (accept, want) in [
            ("", false),
            ("*/*", false),
            ("text/plain", false),
            ("application/openmetrics-text", true),
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                true,
            ),
            ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=1.0.0;q=0.4", false),
            ("application/openmetrics-text;q=0", false),
        ] {
            assert_eq!(wants_open_metrics(accept), want, "{accept}");
        }
    }

    #[test]
    fn the_plain_format_names_counters_like_their_samples() {
        let mut registry = Registry::default();
        let (counter, gauge) = (Counter::<u64>::default(), Gauge::<i64>::default());
        let histogram = Histogram::new([0.5]);
        counter.inc_by(3);
        histogram.observe(0.1);
        registry.register("read_lines", "Lines \"read\"", counter);
        registry.register("splits", "Splits", gauge);
        registry.register_with_unit("took", "How long", Unit::Seconds, histogram);
        let mut open = String::new();
        text::encode(&mut open, &registry).unwrap();
        assert!(open.ends_with("# EOF\n"), "{open}");
        assert_eq!(
            plain(&open),
            "# HELP read_lines_total Lines \"read\".\n# TYPE read_lines_total counter\nread_lines_total 3\n\
             # HELP splits Splits.\n# TYPE splits gauge\nsplits 0\n\
             # HELP took_seconds How long.\n# TYPE took_seconds histogram\n\
             took_seconds_sum 0.1\ntook_seconds_count 1\ntook_seconds_bucket{le=\"0.5\"} 1\n\
             took_seconds_bucket{le=\"+Inf\"} 1\n"
        );
    }
}
