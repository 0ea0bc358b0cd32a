//! Several mistakes in one file, included files, and values from the environment.

use super::{GOOD, parse};
use crate::config::Config;
use crate::transport::address::Address;

/// A directory of its own, removed at the end.
struct Directory(std::path::PathBuf);

impl Directory {
    fn with(name: &str, files: &[(&str, &str)]) -> Directory {
        let path = std::env::temp_dir().join(format!("wsgate-{name}-{}", std::process::id()));
        std::fs::create_dir_all(path.join("conf.d")).unwrap();
        for (file, text) in files {
            std::fs::write(path.join(file), text).unwrap();
        }
        Directory(path)
    }

    fn load(&self) -> Result<Config, String> {
        let config = Config::load(&self.0.join("wsgate.toml"));
        let shown = format!("{}/", self.0.display());
        config.map_err(|errors| errors.to_string().replace(&shown, ""))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn all_mistakes_of_a_file_are_shown_in_the_order_of_their_places() {
    let text = r#"
        threads = -1
        [client]
        header_timeout = 5
        buffer_memory = "1TB"
        [[listener]]
        listen = "127.0.0.1"
        [[listener]]
        listen = "127.0.0.1:0"
        [upstream.chat]
        servres = ["127.0.0.1:9001"]
        eject_after = -1
        [upstream.a]
        servers = ["a:1", "a"]
        [[route]]
        name = "chat"
        upstream = "chta"
        allow = ["10.0.0.0/33", "10.0.0.1", "x"]
        max_fragments = 0
        [[route]]
        name = "other"
        hosts = ["https://a", "b"]
        path = "/b"
        upstream = "a"
        [[route]]
        name = "other"
        path = "/c"
        upstream = "a"
    "#;
    let errors = parse(text).unwrap_err();
    let places: Vec<&str> = errors
        .lines()
        .filter_map(|line| line.trim().strip_prefix("--> wsgate.toml:"))
        .collect();
    let lines = [
        "2:19", "4:26", "5:25", "7:18", "11:9", "12:23", "14:27", "17:20", "18:18", "18:45",
        "19:25", "22:18", "26:16",
    ];
    assert_eq!(places, lines, "{errors}");
    // The upstream whose servers have a typo is not said to have none.
    assert!(!errors.contains("has no servers"), "{errors}");
    let many: String = (0..40).map(|key| format!("key_{key} = 1\n")).collect();
    let errors = parse(&many).unwrap_err();
    assert_eq!(errors.matches("unknown key").count(), 20, "{errors}");
    assert!(errors.ends_with("more mistakes are not shown"), "{errors}");
    let syntax = "a = \n\n\n[[listener]\n";
    let errors = parse(syntax).unwrap_err();
    assert_eq!(errors.matches("error: ").count(), 2, "{errors}");
}

#[test]
fn included_files_are_merged() {
    let directory = Directory::with(
        "include",
        &[
            (
                "wsgate.toml",
                "include = [\"conf.d/*.toml\", \"conf.d/b.toml\", \"none.d/*.toml\"]\n[[listener]]\nlisten = \"127.0.0.1:0\"\n[upstream.main]\nservers = [\"m:1\"]\n[[route]]\nname = \"main\"\nupstream = \"a\"\n",
            ),
            (
                "conf.d/a.toml",
                "\u{feff}[upstream.a]\nservers = [\"a:1\"]\n[client]\nmax_connections = 7\n",
            ),
            (
                "conf.d/b.toml",
                "[[route]]\nname = \"b\"\npath = \"/b\"\nupstream = \"main\"\n",
            ),
            ("conf.d/c.toml.off", "no TOML"),
        ],
    );
    let config = directory.load().unwrap();
    assert_eq!(config.proxy.client.max_connections, 7);
    let upstreams = config.proxy.upstreams.iter();
    let upstreams: Vec<_> = upstreams.map(|upstream| upstream.name.as_str()).collect();
    // In the order of the files, as `status` shows them.
    assert_eq!(upstreams, ["main", "a"]);
    let routes = config.proxy.routes.iter();
    let routes: Vec<_> = routes
        .map(|route| {
            (
                route.name.as_str(),
                config.proxy.upstreams[route.upstream].name.as_str(),
            )
        })
        .collect();
    assert_eq!(routes, [("main", "a"), ("b", "main")]);
    // A mistake is shown in its file, and names the other file.
    let write = |file: &str, text: &str| std::fs::write(directory.0.join(file), text).unwrap();
    write(
        "conf.d/b.toml",
        "include = []\n[client]\n[upstream.main]\nservers = [\"x:1\"]\n",
    );
    let errors = directory.load().unwrap_err();
    assert!(
        errors.contains("error: an included file cannot include others\n --> conf.d/b.toml:1:1\n"),
        "{errors}"
    );
    assert!(
        errors.contains("error: `client` is in two files\n --> conf.d/b.toml:2:2\n")
            && errors.contains("help: the first is in line 3 of conf.d/a.toml; remove one of them"),
        "{errors}"
    );
    assert!(
        errors.contains("error: `main` is in two files\n --> conf.d/b.toml:3:11\n")
            && errors.contains("help: the first is in line 4 of wsgate.toml"),
        "{errors}"
    );
    write(
        "conf.d/b.toml",
        "\n[[route]]\nname = \"main\"\npath = \"/b\"\nupstream = \"main\"\n",
    );
    let errors = directory.load().unwrap_err();
    assert!(
        errors.contains(" --> conf.d/b.toml:3:8\n")
            && errors.contains("help: the first is in line 6 of wsgate.toml"),
        "{errors}"
    );
    write("wsgate.toml", "include = [\"none.toml\"]\n");
    let errors = directory.load().unwrap_err();
    assert!(
        errors.starts_with("error: `none.toml` cannot be read: No such file")
            && errors.contains("\n --> wsgate.toml:1:12\n"),
        "{errors}"
    );
    write("wsgate.toml", "include = \"conf.d/a.toml\"\n");
    let errors = directory.load().unwrap_err();
    assert!(errors.contains("expected a list"), "{errors}");
}

#[test]
fn values_can_come_from_the_environment() {
    // `cargo test` sets the variables of the package.
    let text = GOOD
        .replace("\"127.0.0.1:9001\"", "\"${CARGO_PKG_NAME}:${PORT_NOT_SET:-9001}\"")
        .replace(
            "upstream = \"chat\"",
            "upstream = \"chat\"\nmax_fragments = \"${NOT_SET:-7}\"\ninspect = \"${NOT_SET:-false}\"\nrequest_set = { X-A = \"$${A}\" }",
        );
    let config = parse(&text).unwrap();
    let server = &config.proxy.upstreams[0].servers[0];
    assert_eq!(server.address, Address::Name("wsgate".into(), 9001));
    let route = &config.proxy.routes[0];
    assert_eq!((route.rules.max_fragments, route.rules.inspect), (7, false));
    assert_eq!(
        route.headers[0].set,
        [("X-A".to_owned(), "${A}".to_owned())]
    );
    let wrong = text.replace(":-7}", ":-seven}").replace(":-9001}", "}");
    assert_eq!(
        parse(&wrong).unwrap_err(),
        "error: the environment variable `PORT_NOT_SET` is not set\n --> wsgate.toml:4:12\n  |\n4 | servers = [\"${CARGO_PKG_NAME}:${PORT_NOT_SET}\"]\n  |            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n  = help: set it, or write a default: ${PORT_NOT_SET:-value}"
    );
    let wrong = text.replace(":-7}", ":-seven}");
    let errors = parse(&wrong).unwrap_err();
    assert!(
        errors.starts_with("error: expected a whole number, found the string \"seven\""),
        "{errors}"
    );
}
