import "./styles/tokens.css";
import "./styles/base.css";
import "./styles/layout.css";
import "./styles/parts.css";
import { render } from "preact";
import { App } from "./app";
import { loadCharts } from "./charts/chart";
import { start } from "./state";

start();
const place = document.getElementById("app");
if (place) render(<App />, place);
// After the first paint, before the first numbers.
requestAnimationFrame(() => loadCharts().catch(() => {}));
