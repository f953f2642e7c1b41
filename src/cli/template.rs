//! `millrace template render`: a preview of templates, with sample alerts or those of a file.
//!
//! In: template files, a text or the name of a template. Out: what it renders to, or every fault with its place. Touches the named
//! files, by reading.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use millrace_log::clock::{Clock as _, SystemClock};
use millrace_templates::{Data, Fault, Format, Setting, TemplateSet};

use super::terminal::print;
use crate::exit::{Code, Failure};

/// Bytes that a template file, or one of alerts, may have.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// Bytes that the result may have, as in the notifier.
const MAX_RENDERED_BYTES: usize = 1 << 20;

/// Work with templates of notifications.
#[derive(Debug, Subcommand)]
pub enum TemplateVerb {
    /// Render a template with sample alerts, or with those of a file
    Render(RenderArgs),
}

/// What is rendered.
#[derive(Debug, Args)]
pub struct RenderArgs {
    /// Template files whose `define`s override the default templates
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Template to render, as in `{{ template "slack.default.title" . }}`
    #[arg(short, long, visible_alias = "template.text", default_value = "{{ template \"__subject\" . }}")]
    text: String,
    /// Alerts as JSON: what a webhook gets, or a list of alerts
    #[arg(short = 'f', long, value_name = "FILE", visible_alias = "template.data")]
    data: Option<PathBuf>,
    /// Escape values as HTML
    #[arg(long, visible_alias = "template.type-html")]
    html: bool,
    /// The text is written in handlebars, as in `{{#each alerts}}{{labels.host}}{{/each}}`
    #[arg(long)]
    handlebars: bool,
}

/// Runs it.
pub fn template(verb: &TemplateVerb) -> Result<(), Failure> {
    let TemplateVerb::Render(args) = verb;
    let mut set = TemplateSet::notifications();
    let mut faults = Vec::new();
    for path in &args.files {
        let name = path.display().to_string();
        if let Err(found) = set.add_file(&name, &read(path)?) {
            faults.extend(found.iter().map(|fault| shown(&name, fault)));
        }
    }
    let compiled = if args.handlebars { set.compile_handlebars(&args.text) } else { set.compile(&args.text) };
    let template = match compiled {
        Ok(template) => {
            faults.extend(set.unknown_calls(&template).iter().map(|fault| shown("--text", fault)));
            template
        }
        Err(found) => {
            faults.extend(found.iter().map(|fault| shown("--text", fault)));
            return Err(Failure::text(Code::Config, faults.join("\n")));
        }
    };
    if !faults.is_empty() {
        return Err(Failure::text(Code::Config, faults.join("\n")));
    }
    let data = match &args.data {
        None => Data::sample(),
        Some(path) => Data::from_json(&read(path)?)
            .map_err(|error| Failure::text(Code::Config, format!("{}: invalid JSON: {error}", path.display())))?,
    };
    let format = if args.html { Format::Html } else { Format::Text };
    let external_url = Arc::from(data.external_url.as_str());
    let setting = Setting { limit: MAX_RENDERED_BYTES, now_ns: SystemClock.now_ns(), external_url };
    match set.render(&template, &data, format, &setting) {
        Ok(text) => print(&format!("{text}\n")),
        Err(error) => Err(Failure::text(Code::Failed, format!("the template failed: {error}"))),
    }
}

fn shown(name: &str, fault: &Fault) -> String {
    format!("{name}:{}:{}: {} ({})", fault.line, fault.column, fault.message, fault.hint)
}

fn read(path: &Path) -> Result<String, Failure> {
    let failed = |why: String| Failure::text(Code::Config, format!("{}: {why}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if size > MAX_FILE_BYTES {
        return Err(failed(format!("the file has {size} bytes, {MAX_FILE_BYTES} are allowed")));
    }
    std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))
}
