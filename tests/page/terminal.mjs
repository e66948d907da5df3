// A terminal just good enough for what `tidewatch top` writes: moves, colours, text. Gives its screen as text or as SVG.

const NAMED = ["#1c2733", "#ee5d68", "#3db596", "#e5ad3c", "#6f9df0", "#a78be0", "#3fb3d6", "#e4eaf1"];
const BRIGHT = ["#6d7c8d", "#ff8a92", "#7ddcc0", "#f5cf7e", "#a9c7fb", "#c9b6f2", "#7fd3ee", "#ffffff"];
const [GROUND, TEXT] = ["#0c1218", "#e4eaf1"];
const [WIDTH, HEIGHT, EDGE] = [8.4, 18, 16];

const plain = () => ({ fore: null, back: null, bold: false, dim: false, reversed: false });

/** A colour of the 256. */
function indexed(at) {
  if (at < 8) return NAMED[at];
  if (at < 16) return BRIGHT[at - 8];
  if (at >= 232) return grey(8 + (at - 232) * 10);
  const [red, green, blue] = [Math.floor((at - 16) / 36), Math.floor((at - 16) / 6) % 6, (at - 16) % 6].map((part) => (part ? part * 40 + 55 : 0));
  return `rgb(${red},${green},${blue})`;
}
const grey = (of) => `rgb(${of},${of},${of})`;

export class Screen {
  constructor(columns, rows) {
    [this.columns, this.rows, this.row, this.column, this.style, this.rest] = [columns, rows, 0, 0, plain(), ""];
    this.decoder = new TextDecoder();
    this.clear();
  }

  clear() {
    this.cells = Array.from({ length: this.rows }, () => Array.from({ length: this.columns }, () => ({ text: " ", style: plain() })));
  }

  feed(bytes) {
    let text = this.rest + this.decoder.decode(bytes, { stream: true });
    this.rest = "";
    while (text) {
      if (text[0] === "\x1b") {
        const found = /^\x1b(?:\[([?<>=]?)([\d;]*)[ -/]*([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\-~])/.exec(text);
        if (!found) {
          this.rest = text; // the end of it is to come
          return;
        }
        if (found[3] && !found[1]) this.command(found[3], found[2]);
        text = text.slice(found[0].length);
        continue;
      }
      const [letter] = text;
      text = text.slice(letter.length);
      if (letter === "\r") this.column = 0;
      else if (letter === "\n") this.row = Math.min(this.rows - 1, this.row + 1);
      else if (letter >= " ") this.put(letter);
    }
  }

  put(letter) {
    const cell = this.cells[this.row]?.[this.column];
    if (cell) [cell.text, cell.style] = [letter, { ...this.style }];
    this.column = Math.min(this.columns, this.column + 1);
  }

  command(name, arguments_) {
    const numbers = arguments_.split(";").map((part) => Number(part || 0));
    const count = Math.max(1, numbers[0]);
    if (name === "H" || name === "f") [this.row, this.column] = [Math.max(1, numbers[0]) - 1, Math.max(1, numbers[1] ?? 1) - 1];
    else if (name === "A") this.row = Math.max(0, this.row - count);
    else if (name === "B") this.row += count;
    else if (name === "C") this.column += count;
    else if (name === "D") this.column = Math.max(0, this.column - count);
    else if (name === "G") this.column = count - 1;
    else if (name === "d") this.row = count - 1;
    else if (name === "J") this.clear();
    else if (name === "m") this.colours(numbers);
  }

  colours(numbers) {
    for (let at = 0; at < numbers.length; at += 1) {
      const code = numbers[at];
      const [part, base] = code >= 40 && code < 50 ? ["back", 40] : ["fore", 30];
      if (code === 0) this.style = plain();
      else if (code === 1) this.style.bold = true;
      else if (code === 2) this.style.dim = true;
      else if (code === 22) [this.style.bold, this.style.dim] = [false, false];
      else if (code === 7 || code === 27) this.style.reversed = code === 7;
      else if (code === 39 || code === 49) this.style[part] = null;
      else if (code === 38 || code === 48) {
        const long = numbers[at + 1] === 2;
        this.style[part] = long ? `rgb(${numbers.slice(at + 2, at + 5).join()})` : indexed(numbers[at + 2]);
        at += long ? 4 : 2;
      } else if (code >= base && code < base + 8) this.style[part] = NAMED[code - base];
      else if (code >= 90 && code < 98) this.style.fore = BRIGHT[code - 90];
      else if (code >= 100 && code < 108) this.style.back = BRIGHT[code - 100];
    }
  }

  text() {
    return this.cells.map((row) => row.map(({ text }) => text).join("").trimEnd()).join("\n").trimEnd();
  }
}

/** Blanks become ones that no viewer folds. */
const escaped = (text) => text.replace(/[&<>"]/g, (mark) => `&#${mark.charCodeAt(0)};`).replaceAll(" ", "\u00a0");

/** The screen as a drawing that needs no font but a fixed one. */
export function drawnAsSvg(screen, title) {
  const [width, height] = [screen.columns * WIDTH + 2 * EDGE, screen.rows * HEIGHT + 2 * EDGE];
  const [backs, texts] = [[], []];
  screen.cells.forEach((row, at) => {
    const y = EDGE + at * HEIGHT;
    for (let start = 0; start < row.length; ) {
      const { style } = row[start];
      const key = JSON.stringify(style);
      let end = start;
      while (end < row.length && JSON.stringify(row[end].style) === key) end += 1;
      const text = row.slice(start, end).map((cell) => cell.text).join("");
      const [fore, back] = style.reversed ? [style.back ?? GROUND, style.fore ?? TEXT] : [style.fore ?? TEXT, style.back];
      const x = (EDGE + start * WIDTH).toFixed(1);
      const length = ((end - start) * WIDTH).toFixed(1);
      if (back) backs.push(`<rect x="${x}" y="${y}" width="${length}" height="${HEIGHT}" fill="${back}"/>`);
      if (text.trim()) {
        const weight = `${style.bold ? ' font-weight="600"' : ""}${style.dim ? ' opacity=".65"' : ""}`;
        texts.push(`<text x="${x}" y="${y + HEIGHT - 5}" textLength="${length}" fill="${fore}"${weight}>${escaped(text)}</text>`);
      }
      start = end;
    }
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width.toFixed(0)} ${height.toFixed(0)}" role="img" aria-label="${title}">
<rect width="100%" height="100%" rx="8" fill="${GROUND}"/>
${backs.join("\n")}
<g font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,'Liberation Mono','DejaVu Sans Mono',monospace" font-size="14">
${texts.join("\n")}
</g>
</svg>
`;
}
