//! Recipes: TOML files with the flags of a subcommand, `--config FILE`.
//!
//! The fields are the long flags, with `_` or `-` between words. Flags on the command line override
//! them.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, Command};
use toml::Value;

/// Expands a command line of `program`. If it runs `subcommand` with `--config`, the flags of the
/// recipe are inserted before the given ones.
///
/// The subcommand must allow a flag to be given twice (clap's `args_override_self`).
///
/// # Errors
/// If the recipe cannot be read, or has an unknown field or a value of a wrong type.
pub fn expanded(
    program: &Command,
    subcommand: &str,
    mut given: Vec<OsString>,
) -> Result<Vec<OsString>> {
    let runs = given.get(1).is_some_and(|name| name == subcommand);
    let command = program.find_subcommand(subcommand).filter(|_| runs);
    let (Some(command), Some(path)) = (command, config(&given)) else {
        return Ok(given);
    };
    let flags = read(command, Path::new(&path))
        .with_context(|| format!("recipe {}", Path::new(&path).display()))?;
    given.splice(2..2, flags.into_iter().map(OsString::from));
    Ok(given)
}

/// The value of the last `--config`.
fn config(given: &[OsString]) -> Option<OsString> {
    let joined = |arg: &OsString| {
        let text = arg.to_str()?;
        text.strip_prefix("--config=").map(OsString::from)
    };
    (2..given.len()).rev().find_map(|at| {
        if given[at] == "--config" {
            given.get(at + 1).cloned()
        } else {
            joined(&given[at])
        }
    })
}

fn read(command: &Command, path: &Path) -> Result<Vec<String>> {
    let text = soft_data::read_text(path)?;
    let fields: toml::Table = text.parse()?;
    let mut flags = Vec::new();
    for (name, value) in &fields {
        let arg = argument(command, name)?;
        flags.extend(flag(arg, name, value)?);
    }
    Ok(flags)
}

fn argument<'a>(command: &'a Command, name: &str) -> Result<&'a Arg> {
    let long = name.replace('_', "-");
    let all = || {
        command
            .get_arguments()
            .filter(|arg| arg.get_id() != "config")
    };
    if let Some(arg) = all().find(|arg| arg.get_long() == Some(&long)) {
        return Ok(arg);
    }
    let mut names: Vec<_> = all().filter_map(Arg::get_long).collect();
    names.sort_unstable();
    let names = names.join(", ").replace('-', "_");
    bail!("unknown field `{name}`: expected one of {names}")
}

/// The command-line form of a field.
fn flag(arg: &Arg, name: &str, value: &Value) -> Result<Vec<String>> {
    let long = format!("--{}", arg.get_long().unwrap_or_default());
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
    let plain = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        _ => None,
    };
    let text = match (is_switch, value) {
        (true, Value::Boolean(true)) => return Ok(vec![long]),
        (true, Value::Boolean(false)) => return Ok(Vec::new()),
        (false, Value::Array(values)) => {
            let values: Option<Vec<_>> = values.iter().map(plain).collect();
            values.map(|values| values.join(","))
        }
        (false, value) => plain(value),
        (true, _) => None,
    };
    let expected = if is_switch {
        "true or false"
    } else {
        "a text, a number or a list of them"
    };
    let text = text.with_context(|| format!("field `{name}` is {value}: expected {expected}"))?;
    // With `=`, so that a value may start with a dash.
    Ok(vec![format!("{long}={text}")])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test's way to fail

    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser, Debug)]
    enum Program {
        Train(Args),
        Other(Args),
    }

    #[derive(clap::Args, Debug, PartialEq)]
    #[command(args_override_self = true)]
    struct Args {
        #[arg(long)]
        config: Option<String>,
        #[arg(long)]
        exits: String,
        #[arg(long, default_value_t = 0.1)]
        lr: f64,
        #[arg(long, default_value_t = 1)]
        max_len: usize,
        #[arg(long)]
        constant: bool,
    }

    fn parsed(recipe: &str, flags: &[&str]) -> Result<Args> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("recipe.toml");
        std::fs::write(&path, recipe)?;
        let mut given = ["program", "train", "--config"]
            .map(OsString::from)
            .to_vec();
        given.push(path.into());
        given.extend(flags.iter().map(OsString::from));
        let given = expanded(&Program::command(), "train", given)?;
        match Program::try_parse_from(given)? {
            Program::Train(args) | Program::Other(args) => Ok(args),
        }
    }

    #[test]
    fn fields_are_flags_and_flags_override_them() {
        let recipe = "exits = \"2,4\"\nlr = -1e-3\nmax_len = 7\nconstant = true\n";
        let args = parsed(recipe, &["--lr", "0.5"]).unwrap();
        assert_eq!((args.exits.as_str(), args.lr), ("2,4", 0.5));
        assert_eq!((args.max_len, args.constant), (7, true));
        let args = parsed("exits = [2, 4]\nconstant = false", &["--max-len=3"]).unwrap();
        assert_eq!((args.exits.as_str(), args.lr), ("2,4", 0.1));
        assert_eq!((args.max_len, args.constant), (3, false));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |recipe: &str| format!("{:#}", parsed(recipe, &[]).unwrap_err());
        let unknown = refused("exit = 3");
        assert!(
            unknown.contains("recipe.toml: unknown field `exit`"),
            "{unknown}"
        );
        assert!(
            unknown.contains("constant, exits, lr, max_len"),
            "{unknown}"
        );
        let nested = refused("[exits]\na = 1");
        assert!(nested.contains("field `exits` is"), "{nested}");
        let switch = refused("constant = \"yes\"");
        assert!(switch.contains("expected true or false"), "{switch}");
        let syntax = refused("exits = ");
        assert!(syntax.contains("line 1"), "{syntax}");
        let number = refused("exits = \"2\"\nlr = \"fast\"");
        assert!(
            number.contains("--lr") && number.contains("fast"),
            "{number}"
        );
        let recipe = parsed("config = \"other.toml\"", &[]).unwrap_err();
        assert!(format!("{recipe:#}").contains("unknown field `config`"));
    }

    #[test]
    fn a_recipe_that_is_not_there_is_named() {
        let given = |name: &str| ["program", name, "--config=nowhere.toml"].map(OsString::from);
        let expand = |name| expanded(&Program::command(), "train", given(name).to_vec());
        let message = format!("{:#}", expand("train").unwrap_err());
        assert!(
            message.contains("recipe nowhere.toml: cannot read"),
            "{message}"
        );
        // Other subcommands do not read recipes.
        assert_eq!(expand("other").unwrap(), given("other"));
    }
}
