//! Rows of figures: as a table for people, as JSON for programs.

use std::time::Duration;

use serde::Serialize;

use super::{
    figures::{Middle, Sample, middle},
    place::Kind,
};
use crate::cli::{failure::Failure, output::Output, quantity::size, table::Table};

/// What was measured, as often as it was.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) workload: &'static str,
    pub(super) what: String,
    pub(super) kind: Kind,
    pub(super) samples: Vec<Sample>,
}

const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

impl Row {
    pub(super) fn new(workload: &'static str, what: &str, kind: Kind) -> Self {
        Self { workload, what: what.into(), kind, samples: Vec::new() }
    }

    fn middle(&self, figure: impl Fn(&Sample) -> Option<f64>) -> Option<Middle> {
        middle(self.samples.iter().filter_map(figure))
    }

    pub(super) fn rate(&self) -> Option<Middle> {
        self.middle(|sample| (0 < sample.tally.records).then(|| sample.tally.rate()))
    }

    fn latency(&self, quantile: f64) -> Option<Middle> {
        self.middle(|sample| {
            let latencies = &sample.tally.latencies;
            (!latencies.is_empty()).then(|| micros(latencies.at(quantile)))
        })
    }

    fn probe(&self) -> Option<Middle> {
        self.middle(|sample| Some(micros(sample.probe)))
    }

    /// Median of the ratios of single runs: the probe beside each is that of its minute.
    fn to_probe(&self) -> Option<Middle> {
        self.middle(|sample| {
            let latencies = &sample.tally.latencies;
            let ratio = || latencies.at(0.5).as_secs_f64() / sample.probe.as_secs_f64();
            (!latencies.is_empty()).then(ratio)
        })
    }

    fn figures(&self, rows: &[Row]) -> Figures<'_> {
        let per_record = |total: f64, sample: &Sample| {
            (0 < sample.tally.records).then(|| total / sample.tally.records as f64)
        };
        let rate_of = |kind: Kind| {
            let other = rows.iter().find(|row| row.kind == kind && row.what == self.what)?;
            Some(other.rate()?.median)
        };
        let ratio = |other: Option<f64>| Some(self.rate()?.median / other?);
        let [p50, p90, p99, p999] = QUANTILES.map(|q| self.latency(q).map(|m| m.median));
        Figures {
            workload: self.workload,
            what: &self.what,
            kind: self.kind.name(),
            runs: self.samples.len(),
            records_per_second: self.rate().map(|m| m.median),
            records_per_second_least: self.rate().map(|m| m.least),
            records_per_second_greatest: self.rate().map(|m| m.greatest),
            p50_us: p50,
            p90_us: p90,
            p99_us: p99,
            p999_us: p999,
            probe_us: self.probe().map(|m| m.median),
            p50_to_probe: self.to_probe().map(|m| m.median),
            to_wire: ratio(self.kind.ceiling().and_then(rate_of)),
            to_redis: ratio(rate_of(Kind::Redis)).filter(|_| self.kind != Kind::Redis),
            client_cpu_us_per_record: self
                .middle(|s| per_record(micros(s.client?.cpu), s))
                .map(|m| m.median),
            server_cpu_us_per_record: self
                .middle(|s| per_record(micros(s.server?.cpu), s))
                .map(|m| m.median),
            written_bytes_per_record: self
                .middle(|s| per_record(s.written? as f64, s))
                .map(|m| m.median),
            resident_bytes: self.middle(|s| Some(s.resident()? as f64)).map(|m| m.median),
            resident_bytes_per_tail: self.middle(|s| Some(s.per_tail? as f64)).map(|m| m.median),
        }
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The figures of a row; what was not measured is left out.
#[derive(Debug, Serialize)]
struct Figures<'a> {
    workload: &'a str,
    what: &'a str,
    kind: &'a str,
    runs: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    records_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    records_per_second_least: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    records_per_second_greatest: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p90_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p999_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    probe_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_to_probe: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_wire: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_redis: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_cpu_us_per_record: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_cpu_us_per_record: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    written_bytes_per_record: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resident_bytes: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resident_bytes_per_tail: Option<f64>,
}

/// Prints what belongs together.
pub(super) fn print(rows: &[Row], as_json: bool) -> Result<(), Failure> {
    let mut output = Output::new();
    let figures: Vec<_> = rows.iter().map(|row| row.figures(rows)).collect();
    if as_json {
        figures.iter().try_for_each(|figures| output.json(figures))?;
    } else {
        output.bytes(table(&figures).as_bytes())?;
        output.line("")?;
    }
    output.flush()
}

fn table(rows: &[Figures<'_>]) -> String {
    let mut table = Table::new([
        "WHAT",
        "BY",
        ">RECORDS/S",
        ">SPREAD",
        ">P50 us",
        ">P90",
        ">P99",
        ">P99.9",
        ">PROBE us",
        ">P50/PROBE",
        ">OF WIRE",
        ">x REDIS",
        ">CPU us CLIENT",
        ">SERVER",
        ">WRITTEN/RECORD",
        ">RESIDENT",
        ">PER TAIL",
    ]);
    for row in rows {
        let text = |figure: Option<f64>, digits: usize| {
            figure.map_or_else(String::new, |figure| format!("{figure:.digits$}"))
        };
        let spread = row.records_per_second_least.zip(row.records_per_second_greatest);
        table.row([
            format!("{}: {}", row.workload, row.what),
            row.kind.into(),
            row.records_per_second.map_or_else(String::new, short),
            spread.map_or_else(String::new, |(a, b)| format!("{}..{}", short(a), short(b))),
            text(row.p50_us, 0),
            text(row.p90_us, 0),
            text(row.p99_us, 0),
            text(row.p999_us, 0),
            text(row.probe_us, 0),
            text(row.p50_to_probe, 2),
            row.to_wire.map_or_else(String::new, |share| format!("{:.0} %", share * 100.0)),
            text(row.to_redis, 2),
            text(row.client_cpu_us_per_record, 2),
            text(row.server_cpu_us_per_record, 2),
            text(row.written_bytes_per_record, 0),
            row.resident_bytes.map_or_else(String::new, |bytes| size(bytes as u64)),
            row.resident_bytes_per_tail.map_or_else(String::new, |bytes| size(bytes as u64)),
        ]);
    }
    table.take()
}

/// `12.3 k`: a rate for people.
fn short(rate: f64) -> String {
    match rate {
        1e6.. => format!("{:.2} M", rate / 1e6),
        1e4.. => format!("{:.0} k", rate / 1e3),
        1e3.. => format!("{:.1} k", rate / 1e3),
        _ => format!("{rate:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::figures::Tally;

    fn row(kind: Kind, records: u64) -> Row {
        let mut tally = Tally { records, took: Duration::from_secs(1), ..Tally::none() };
        tally.latencies.note(Duration::from_micros(200));
        let probe = Duration::from_micros(100);
        let sample =
            Sample { tally, probe, client: None, server: None, written: None, per_tail: None };
        Row { samples: vec![sample], ..Row::new("w1", "one", kind) }
    }

    #[test]
    fn rates_are_compared_with_those_measured_beside_them() {
        let rows = [row(Kind::Session, 60), row(Kind::WireSession, 120), row(Kind::Redis, 30)];
        let figures = rows[0].figures(&rows);
        assert_eq!((figures.to_wire, figures.to_redis), (Some(0.5), Some(2.0)));
        assert!((figures.p50_to_probe.unwrap() - 2.0).abs() < 0.01);
        assert_eq!(rows[2].figures(&rows).to_redis, None);
        assert_eq!(rows[0].figures(&rows[..1]).to_wire, None, "nothing to compare with");
    }

    #[test]
    fn rates_are_short() {
        assert_eq!([12.0, 1_234.0, 123_456.0, 2e6].map(short), ["12", "1.2 k", "123 k", "2.00 M"]);
    }
}
