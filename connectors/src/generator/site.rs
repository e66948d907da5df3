//! The site whose logs are generated: its pages, assets, visitors' browsers, robots and networks, with their shares.
//!
//! Only data. Shares follow what public access logs show: most requests are for static files that follow a page, a few
//! pages take most visits, a few per cent come from robots, and `404` falls on things that exist under other names.

#![allow(missing_docs)] // only data

/// Which kind of time a request takes: an index into [`TIMES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    Static,
    Page,
    Search,
    Api,
    Checkout,
}

/// Median in µs and standard deviation of the logarithm, by [`Pace`].
pub const TIMES: [(u32, f64); 5] = [(900, 0.8), (48_000, 0.55), (135_000, 0.75), (21_000, 0.7), (240_000, 0.6)];

/// How a path is made.
#[derive(Clone, Copy, Debug)]
pub enum Path {
    /// As it stands.
    Fixed(&'static str),
    /// With the number of a thing: before, how many things there are, after.
    Numbered(&'static str, u32, &'static str),
    /// With a word of a list.
    Worded(&'static str, &'static [&'static str]),
}

/// How a query is made.
#[derive(Clone, Copy, Debug)]
pub enum Query {
    None,
    /// `q=…&page=…`
    Search,
    /// Sometimes `sort=…&page=…`
    Listing,
    /// Sometimes the marks of a campaign.
    Campaign,
}

/// Which answers a page may give beyond success and server errors.
pub mod answers {
    /// Anything not listed below.
    pub const ANY: u8 = 1;
    /// 201.
    pub const CREATED: u8 = 2;
    /// 204.
    pub const NO_CONTENT: u8 = 4;
    /// 302, 303, 307.
    pub const REDIRECT: u8 = 8;
    /// 401, 403.
    pub const DENIED: u8 = 16;
    /// 404, 410.
    pub const MISSING: u8 = 32;
    /// 301, 308.
    pub const MOVED: u8 = 64;
    /// Asked for by crawlers.
    pub const CRAWLED: u8 = 128;
}
use answers::*;

/// A page or an API call.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Share among all pages.
    pub weight: u32,
    pub method: &'static str,
    pub path: Path,
    pub query: Query,
    pub pace: Pace,
    /// Least and most bytes.
    pub bytes: (u32, u32),
    /// At most so many static files follow.
    pub assets: u8,
    pub answers: u8,
}

#[expect(clippy::too_many_arguments, reason = "a row of the catalogue below, where names would hide the columns")]
const fn page(
    weight: u32,
    method: &'static str,
    path: Path,
    query: Query,
    pace: Pace,
    bytes: (u32, u32),
    assets: u8,
    answers: u8,
) -> Page {
    Page { weight, method, path, query, pace, bytes, assets, answers }
}

/// Things in the shop.
pub const PRODUCTS: u32 = 1_200;

/// The catalogue.
#[rustfmt::skip]
pub const PAGES: [Page; 24] = [
    page(180, "GET", Path::Fixed("/"), Query::Campaign, Pace::Page, (14_200, 15_900), 7, ANY | CRAWLED),
    page(210, "GET", Path::Numbered("/products/", PRODUCTS, ""), Query::None, Pace::Page, (18_000, 42_000), 8, ANY | MISSING | CRAWLED),
    page(95, "GET", Path::Worded("/category/", &CATEGORIES), Query::Listing, Pace::Page, (22_000, 61_000), 9, ANY | MISSING | MOVED | CRAWLED),
    page(70, "GET", Path::Fixed("/search"), Query::Search, Pace::Search, (9_000, 38_000), 4, ANY),
    page(60, "GET", Path::Worded("/blog/", &POSTS), Query::Campaign, Pace::Page, (8_000, 31_000), 5, ANY | MISSING | MOVED | CRAWLED),
    page(22, "GET", Path::Fixed("/blog"), Query::None, Pace::Page, (11_000, 12_000), 4, ANY | CRAWLED),
    page(38, "GET", Path::Fixed("/cart"), Query::None, Pace::Page, (5_000, 12_000), 3, ANY),
    page(12, "GET", Path::Fixed("/checkout"), Query::None, Pace::Checkout, (7_000, 9_000), 3, ANY | REDIRECT),
    page(8, "POST", Path::Fixed("/checkout"), Query::None, Pace::Checkout, (300, 900), 0, ANY | REDIRECT),
    page(16, "GET", Path::Fixed("/login"), Query::None, Pace::Page, (3_900, 4_000), 2, ANY),
    page(13, "POST", Path::Fixed("/login"), Query::None, Pace::Api, (200, 400), 0, ANY | REDIRECT | DENIED),
    page(5, "GET", Path::Fixed("/logout"), Query::None, Pace::Api, (0, 200), 0, ANY | REDIRECT),
    page(20, "GET", Path::Fixed("/account"), Query::None, Pace::Page, (6_000, 9_000), 3, ANY | REDIRECT | DENIED),
    page(14, "GET", Path::Numbered("/account/orders/", 9_000, ""), Query::None, Pace::Page, (5_000, 14_000), 2, ANY),
    page(7, "GET", Path::Fixed("/about"), Query::None, Pace::Page, (6_400, 6_500), 3, ANY | CRAWLED),
    page(6, "GET", Path::Fixed("/contact"), Query::None, Pace::Page, (4_100, 4_200), 2, ANY | CRAWLED),
    page(75, "GET", Path::Numbered("/api/v1/products/", PRODUCTS, ""), Query::None, Pace::Api, (600, 2_400), 0, ANY | MISSING),
    page(40, "GET", Path::Fixed("/api/v1/recommendations"), Query::Listing, Pace::Api, (1_500, 6_000), 0, ANY),
    page(36, "GET", Path::Fixed("/api/v1/session"), Query::None, Pace::Api, (180, 260), 0, ANY | DENIED | NO_CONTENT),
    page(28, "POST", Path::Fixed("/api/v1/cart/items"), Query::None, Pace::Api, (240, 420), 0, ANY | CREATED),
    page(6, "PATCH", Path::Numbered("/api/v1/cart/items/", 12, ""), Query::None, Pace::Api, (240, 420), 0, ANY | NO_CONTENT),
    page(5, "DELETE", Path::Numbered("/api/v1/cart/items/", 12, ""), Query::None, Pace::Api, (20, 60), 0, ANY | NO_CONTENT),
    page(4, "PUT", Path::Fixed("/api/v1/account/address"), Query::None, Pace::Api, (160, 300), 0, ANY | NO_CONTENT),
    page(8, "OPTIONS", Path::Fixed("/api/v1/session"), Query::None, Pace::Api, (0, 0), 0, ANY | NO_CONTENT),
];

/// Static files that follow pages: path (`#` stands for a product's number), bytes, share.
pub const ASSETS: [(&str, u32, u32); 10] = [
    ("/static/css/main.7d1f03.css", 48_210, 16),
    ("/static/js/app.b41c9e.js", 212_884, 16),
    ("/static/js/vendor.90aa21.js", 388_112, 12),
    ("/static/img/logo.svg", 4_311, 12),
    ("/static/fonts/inter-var.woff2", 101_660, 9),
    ("/favicon.ico", 15_086, 6),
    ("/static/img/products/#-thumb.webp", 14_020, 40),
    ("/static/img/products/#.webp", 88_400, 22),
    ("/static/js/checkout.55e2d7.js", 61_902, 3),
    ("/media/intro.mp4", 4_200_000, 1),
];

/// The one file this site's pages ask for that was never there.
pub const BROKEN_LINK: &str = "/static/img/banner-2019.png";

/// Shop categories.
const CATEGORIES: [&str; 10] =
    ["shoes", "jackets", "tents", "backpacks", "lamps", "stoves", "maps", "bottles", "socks", "sale"];
/// Blog posts, the newest first.
const POSTS: [&str; 12] = [
    "spring-sale",
    "how-to-pitch-a-tent",
    "ten-trails-in-the-alps",
    "repair-your-rain-jacket",
    "packing-light",
    "choosing-a-stove",
    "winter-camping",
    "care-for-leather-boots",
    "map-and-compass",
    "water-filters-compared",
    "cycling-the-danube",
    "our-new-warehouse",
];
/// What people search for.
pub const TERMS: [&str; 16] = [
    "rain+jacket",
    "tent+2+person",
    "hiking+boots",
    "headlamp",
    "gas+stove",
    "merino",
    "sleeping+bag",
    "trekking+poles",
    "water+filter",
    "backpack+40l",
    "gloves",
    "map+alps",
    "socks",
    "size+43",
    "gift+card",
    "caf%C3%A9+press",
];

/// Browsers and their shares in per cent: they add up to 100.
#[rustfmt::skip]
pub const BROWSERS: [(u32, &str); 12] = [
    (24, "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"),
    (19, "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36"),
    (18, "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"),
    (9, "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"),
    (7, "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36 Edg/126.0.0.0"),
    (6, "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15"),
    (5, "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:127.0) Gecko/20100101 Firefox/127.0"),
    (3, "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0"),
    (3, "Mozilla/5.0 (iPad; CPU OS 16_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/16.6 Mobile/15E148 Safari/604.1"),
    (3, "Mozilla/5.0 (Linux; Android 14; SAMSUNG SM-S921B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/25.0 Chrome/121.0.0.0 Mobile Safari/537.36"),
    (2, "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"),
    (1, "TideShop/4.2 (Android 13; Pixel 6a) okhttp/4.12.0"),
];

/// Robots: share in per cent (they add up to 100), agent, first address of a /19 they come from.
pub const ROBOTS: [(u32, &str, [u8; 4]); 7] = [
    (42, "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", [66, 249, 64, 0]),
    (20, "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)", [40, 77, 160, 0]),
    (12, "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)", [54, 36, 128, 0]),
    (8, "Mozilla/5.0 (compatible; DuckDuckBot/1.1; +http://duckduckgo.com/duckduckbot.html)", [20, 191, 32, 0]),
    (6, "Mozilla/5.0 (compatible; Applebot/0.1; +http://www.apple.com/go/applebot)", [17, 241, 64, 0]),
    (6, "curl/8.5.0", [116, 202, 96, 0]),
    (6, "python-requests/2.32.3", [128, 140, 0, 0]),
];

/// First octets of the networks people come from. None of them holds a documentation, private or reserved network, nor
/// a robot.
pub const NETWORKS: [u8; 24] =
    [2, 5, 24, 31, 37, 46, 62, 71, 73, 76, 78, 81, 84, 86, 91, 93, 95, 109, 142, 151, 176, 188, 212, 217];

/// The site's own address, as referrers show it.
pub const ORIGIN: &str = "https://www.example.com";
/// Other sites people come from.
pub const REFERRERS: [&str; 8] = [
    "https://www.google.com/",
    "https://www.google.com/",
    "https://www.google.com/",
    "https://www.bing.com/",
    "https://duckduckgo.com/",
    "https://l.facebook.com/",
    "https://news.ycombinator.com/",
    "https://outdoor-forum.example.org/t/which-tent",
];
