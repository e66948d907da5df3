import { expect, test } from "vitest";
import { agentName } from "../src/agent";

test.each([
  ["Chrome", "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36", "Chrome 126, Windows"],
  ["Edge says it is Chrome", "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36 Edg/125.0", "Edge 125, Windows"],
  ["Firefox", "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0", "Firefox 127, Linux"],
  ["Safari", "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15", "Safari 17, macOS"],
  ["Safari of a phone", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Version/17.5 Mobile/15E148 Safari/604.1", "Safari 17, iPhone"],
  ["Android says it is Linux", "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36", "Chrome 126, Android"],
  ["an old one", "Mozilla/5.0 (compatible; MSIE 10.0; Windows NT 6.2)", "Internet Explorer 10, Windows"],
  ["a robot", "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "Googlebot 2.1"],
  ["a robot that says it is Chrome", "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm) Chrome/116.0", "bingbot 2.0"],
  ["short as it is", "curl/8.5.0", null],
  ["nothing known", "Mozilla/5.0 (X11)", null],
  ["a script", '"><img src=x onerror=alert(1)>', null],
  ["nothing", "", null],
])("%s", (_, text, want) => expect(agentName(text)).toBe(want));

test("no text takes long", () => {
  const begun = performance.now();
  for (const part of ["compatible; a ", "Version/1 ", "Trident/ ", "Mac OS X "]) agentName(`Mozilla/${part.repeat(100_000)}`);
  expect(performance.now() - begun).toBeLessThan(100);
});
