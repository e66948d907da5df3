// Says that an alert began, in sight and to screen readers, whatever view is open. Goes away by itself.

import { useEffect, useState } from "preact/hooks";
import { useWatched } from "../cell";
import * as format from "../format";
import { announced, go, route } from "../state";
import { SeverityBadge } from "./basic";

const SHOWN_MS = 9000;
const LOUD = new Set(["medium", "high", "critical"]);

export function Toast() {
  const alert = useWatched(announced);
  const here = useWatched(route);
  const [hidden, setHidden] = useState<string | null>(null);
  useEffect(() => {
    if (!alert) return;
    const timer = setTimeout(() => setHidden(alert.id), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [alert?.id]);
  const shown = alert && LOUD.has(alert.severity) && hidden !== alert.id ? alert : null;
  return (
    <div class="toast-room" role="status" aria-live="polite">
      {shown && (
        <div class={`toast severity-edge-${shown.severity}`} data-quiet={here.view === "security"}>
          <SeverityBadge severity={shown.severity} />
          <span class="toast-text">
            <b>{format.visible(shown.rule)}</b> {format.shorten(Object.values(shown.subject).map(format.visible).join(", "), 60)}
          </span>
          <button type="button" onClick={() => (setHidden(shown.id), go({ view: "security", argument: "", filters: { alert: shown.id } }))}>
            Show
          </button>
          <button type="button" class="quiet" aria-label="Dismiss" onClick={() => setHidden(shown.id)}>
            ✕
          </button>
        </div>
      )}
    </div>
  );
}
