//! Builds the page (`web/`: TypeScript, Vite) and makes a table of its files for `src/assets.rs`.
//!
//! The sources are copied to `OUT_DIR` and built there, so that the source tree stays as it is; packages are installed again
//! only when their lock file has changed. Runs again only when `web/` has changed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// What building the page has no use for: not copied, and no change of it counts.
const OURS: [&str; 5] = ["node_modules", "dist", ".vite", "dev", "test"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=compress.mjs");
    if env::var_os("CARGO_FEATURE_PAGE").is_none() {
        return;
    }
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    if let Err(words) = build(&here, &out) {
        // A panic would bury the sentence in a backtrace.
        println!("cargo::error={words}");
    }
}

fn build(here: &Path, out: &Path) -> Result<(), String> {
    let (web, work) = (here.join("web"), out.join("web"));
    for entry in listed(&web)? {
        println!("cargo:rerun-if-changed={}", entry.display());
    }
    check_node()?;
    let modules = work.join("node_modules");
    let lock = fs::read(web.join("package-lock.json")).map_err(|e| format!("web/package-lock.json: {e}"))?;
    let stamp = work.join("node_modules/.installed");
    let installed = fs::read(&stamp).is_ok_and(|of| of == lock);
    for entry in fs::read_dir(&work).into_iter().flatten().flatten() {
        if entry.path() != modules {
            remove(&entry.path())?;
        }
    }
    copy(&web, &work)?;
    if !installed {
        run(&work, "npm", &["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"])?;
        fs::write(&stamp, &lock).map_err(|e| e.to_string())?;
    }
    let dist = out.join("dist");
    remove(&dist)?;
    let to = dist.to_string_lossy().into_owned();
    run(&work, "npx", &["--no-install", "vite", "build", "--emptyOutDir", "--outDir", &to, "--logLevel", "warn"])?;
    let packed = out.join("packed");
    remove(&packed)?;
    let to_packed = packed.to_string_lossy().into_owned();
    let script = here.join("compress.mjs").to_string_lossy().into_owned();
    run(out, "node", &[&script, &to, &to_packed])?;
    table(&packed, &out.join("assets.rs"))
}

/// The table, from the index that `compress.mjs` writes: path, type, tag, hashed, and which forms there are.
fn table(packed: &Path, to: &Path) -> Result<(), String> {
    let index = fs::read_to_string(packed.join("index.tsv")).map_err(|e| format!("index of the page's files: {e}"))?;
    let mut code = String::from("static ASSETS: &[Asset] = &[\n");
    for line in index.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let [path, kind, tag, hashed, file, gzip, brotli] = columns[..] else {
            return Err(format!("{line:?} is no line of an index"));
        };
        let bytes = |name: &str| format!("include_bytes!({:?})", packed.join(name).to_string_lossy());
        let form = |name: &str| if name.is_empty() { "None".into() } else { format!("Some({})", bytes(name)) };
        let _ = writeln!(
            code,
            "    Asset {{ path: {path:?}, kind: {kind:?}, tag: {:?}, hashed: {hashed}, plain: {}, gzip: {}, brotli: {} }},",
            format!("\"{tag}\""),
            bytes(file),
            form(gzip),
            form(brotli)
        );
    }
    code.push_str("];\n");
    fs::write(to, code).map_err(|e| format!("{}: {e}", to.display()))
}

/// Vite's own words for a Node that is too old help nobody.
fn check_node() -> Result<(), String> {
    let without = "or build without the page: --no-default-features (see docs/PAGE.md)";
    let needed = "building the page needs Node 20.19 or later (22.12 or later of 22) with npm";
    for tool in ["node", "npm"] {
        if Command::new(tool).arg("--version").output().is_err() {
            return Err(format!("{needed}, and `{tool}` is not here; install it (Debian: nodejs npm), {without}"));
        }
    }
    let shown = Command::new("node").arg("--version").output().map_err(|e| e.to_string())?;
    let shown = String::from_utf8_lossy(&shown.stdout).trim().to_owned();
    let mut numbers = shown.trim_start_matches('v').split('.').map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let enough = matches!(version, (20, 19..) | (22, 12..) | (23.., _));
    if enough { Ok(()) } else { Err(format!("{needed}, and this is {shown}; install a newer one, {without}")) }
}

/// What a change of counts: everything in the folder but what builds leave there.
fn listed(web: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(web).map_err(|e| format!("{}: {e}", web.display()))?;
    let mut all: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| !is_ours(path)).collect();
    all.sort();
    Ok(all)
}

fn is_ours(path: &Path) -> bool {
    path.file_name().is_some_and(|name| OURS.iter().any(|ours| name == *ours))
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::create_dir_all(to).map_err(|e| format!("{}: {e}", to.display()))?;
    for path in listed(from)? {
        let Some(name) = path.file_name() else { continue };
        let target = to.join(name);
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target).map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), String> {
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {error}", path.display())),
        _ => Ok(()),
    }
}

fn run(dir: &Path, program: &str, arguments: &[&str]) -> Result<(), String> {
    let shown = format!("{program} {}", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .output()
        .map_err(|e| format!("`{shown}` cannot be started: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = [output.stdout, output.stderr].concat();
    for line in String::from_utf8_lossy(&words).lines() {
        println!("cargo::error={line}");
    }
    Err(format!("the page could not be built: `{shown}` failed"))
}
