//! Commands around files: `run`, `init`, `key`, `config`.

use std::io;
use std::path::Path;
use std::thread;

use super::screen::{CliError, print, say, shell_word, show, to_json};
use super::table::Table;
use super::{CheckArgs, InitArgs, KeyArgs, RunArgs, needs_config};
use crate::config::settings::{Setting, settings};
use crate::config::{CONFIG_TEMPLATE, Config, init, schema};
use crate::daemon::identity::Identity;
use crate::daemon::{self, give_up_privileges};

pub(super) fn run(args: RunArgs) -> Result<(), CliError> {
    let file = args.config.ok_or_else(needs_config)?;
    if args.while_stdin {
        stop_with_stdin();
    }
    let level = match (args.verbose, args.quiet) {
        (true, _) => "debug",
        (false, true) => "warn",
        (false, false) => "info",
    };
    daemon::run(&file, args.latency, level).map_err(|error| CliError::failure(error.to_string()))
}

pub(super) fn init(args: &InitArgs) -> Result<(), CliError> {
    let options = init::Options {
        peers: args.peers,
        edges_percent: args.edges,
        seed: args.seed,
        listen_base: args.listen_base,
    };
    let files = init::generate(&options)
        .and_then(|overlay| init::write(&args.dir, &overlay))
        .map_err(|error| CliError::failure(error.to_string()))?;
    print(|out, _| {
        writeln!(out, "{} peers and their keys are in {}", files.len(), args.dir.display())?;
        writeln!(out, "Start each of them:")?;
        for file in files.iter().take(3) {
            writeln!(out, "  spanway run --config {} &", shell_word(file))?;
        }
        if files.len() > 3 {
            writeln!(out, "  ...")?;
        }
        let Some(first) = files.first() else { return Ok(()) };
        writeln!(out, "Then look around:")?;
        writeln!(out, "  spanway tree --config {}", shell_word(first))
    })
}

pub(super) fn key(args: &KeyArgs) -> Result<(), CliError> {
    let wrong = |error: daemon::identity::IdentityError| CliError::failure(error.to_string());
    let identity = match &args.new {
        Some(file) => Identity::create(file).map_err(wrong)?,
        None => Identity::load(&load(args.target.config_file()?)?.key_file).map_err(wrong)?,
    };
    let (key, fingerprint) = (identity.public_key(), identity.fingerprint());
    let shown = serde_json::json!({ "key": key.to_string(), "fingerprint": fingerprint });
    show(&args.target, &shown, |_, out, _| {
        writeln!(out, "{key}")?;
        writeln!(out, "fingerprint {fingerprint}")
    })
}

pub(super) fn check(args: &CheckArgs) -> Result<(), CliError> {
    let target = &args.target;
    let config = load(target.config_file()?)?;
    // A configuration whose key cannot be read would not start either.
    let identity =
        Identity::load(&config.key_file).map_err(|error| CliError::failure(error.to_string()))?;
    let shown = args.show.then(|| shown(&config)).transpose()?;
    if target.json {
        let mut json = serde_json::json!({
            "name": config.name,
            "fingerprint": identity.fingerprint(),
            "links": config.links.len(),
            "services": config.services.len(),
        });
        if let Some(settings) = shown {
            json["settings"] = serde_json::json!(settings);
        }
        let json = to_json(&json)?;
        return print(|out, _| writeln!(out, "{json}"));
    }
    print(|out, style| {
        writeln!(
            out,
            "{}: {} is peer {} with {} links and {} services, key {}",
            style.green("valid"),
            config.file.display(),
            config.name,
            config.links.len(),
            config.services.len(),
            identity.fingerprint()
        )?;
        shown.map_or(Ok(()), |settings| settings_table(&settings).write(out, style))
    })
}

fn shown(config: &Config) -> Result<Vec<Setting>, CliError> {
    let text = std::fs::read_to_string(&config.file).map_err(|error| {
        CliError::failure(format!("{} cannot be read: {error}", config.file.display()))
    })?;
    Ok(settings(config, &text))
}

fn settings_table(settings: &[Setting]) -> Table {
    let mut table = Table::new().elastic("KEY").column("FROM").elastic("VALUE");
    for Setting { key, value, from } in settings {
        let value = if value.is_null() { "none".to_owned() } else { value.to_string() };
        table.row(vec![key.clone(), from.as_str().to_owned(), value]);
    }
    table
}

pub(super) fn schema() -> Result<(), CliError> {
    let json = to_json(&schema::schema())?;
    print(|out, _| writeln!(out, "{json}"))
}

pub(super) fn print_default() -> Result<(), CliError> {
    print(|out, _| out.write_all(CONFIG_TEMPLATE.as_bytes()))
}

fn load(file: &Path) -> Result<Config, CliError> {
    Config::load(file).map_err(|error| CliError::failure(error.to_string()))
}

/// Ends this process when standard input closes, which it does when the parent dies.
pub(super) fn stop_with_stdin() {
    let watch = || {
        // It does nothing that would need any.
        let _ = give_up_privileges();
        // Nobody writes there; an error is an end as well.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        std::process::exit(0);
    };
    if let Err(error) = thread::Builder::new().name("stdin".to_owned()).spawn(watch) {
        say(&format!("standard input is not watched: {error}"));
    }
}
