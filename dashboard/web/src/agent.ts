// What a user agent calls itself, in a few words. Agents lie, and anything may stand in one: the whole text is shown beside it.

/** The first that is there: most of them say that they are others too. */
const BROWSERS: [RegExp, string][] = [
  [/\bEdgA?(?:iOS)?\/(\d{1,4})/, "Edge"],
  [/\b(?:OPR|OPiOS)\/(\d{1,4})/, "Opera"],
  [/\bSamsungBrowser\/(\d{1,4})/, "Samsung Internet"],
  [/\b(?:Firefox|FxiOS)\/(\d{1,4})/, "Firefox"],
  [/\b(?:Chrome|CriOS)\/(\d{1,4})/, "Chrome"],
  [/\bVersion\/(\d{1,4})[^/]{0,40} Safari\//, "Safari"],
  [/\bVersion\/(\d{1,4})[^/]{0,40} Mobile\/\w{1,12} Safari\//, "Safari"],
  [/\b(?:MSIE |Trident\/.{0,40}rv:)(\d{1,4})/, "Internet Explorer"],
];

const SYSTEMS: [RegExp, string][] = [
  [/\bWindows/, "Windows"],
  [/\bAndroid/, "Android"],
  [/\biPhone/, "iPhone"],
  [/\biPad/, "iPad"],
  [/\bMac OS X/, "macOS"],
  [/\bCrOS/, "ChromeOS"],
  [/\bLinux/, "Linux"],
];

/** "Chrome 126, Windows" or "Googlebot 2.1"; nothing where its own words are short, or say no such thing. */
export function agentName(text: string): string | null {
  if (!text.startsWith("Mozilla/")) return null;
  const known = text.slice(0, 512);
  const robot = /\bcompatible; ([A-Za-z][\w. -]{1,40}?)(?:\/v?([\d.]{1,12}))?[;)]/.exec(known);
  if (robot && robot[1] && !/^(MSIE|Konqueror)\b/.test(robot[1])) return robot[2] ? `${robot[1]} ${robot[2]}` : robot[1];
  for (const [pattern, name] of BROWSERS) {
    const version = pattern.exec(known)?.[1];
    if (!version) continue;
    const system = SYSTEMS.find(([of]) => of.test(known))?.[1];
    return `${name} ${version}${system ? `, ${system}` : ""}`;
  }
  return null;
}
