// Where the graph of clients, paths, hosts and users will be shown. The view is here so that its address stays; until
// the engine keeps a graph it says what is to come, and what answers the same questions today.

import { Card, ViewLink } from "../parts/basic";
import { route } from "../state";
import { useWatched } from "../cell";
import type { View } from "../url";

const TODAY: { question: string; view: View; name: string }[] = [
  { question: "What did one client do, and where?", view: "traffic", name: "Traffic: follow a client" },
  { question: "Which clients touched paths that nobody else asks for?", view: "security", name: "Security: rule dark-paths" },
  { question: "Who asked for one path?", view: "requests", name: "Requests: filter by path" },
];

export function GraphPage() {
  const here = useWatched(route);
  return (
    <Card title="Not built yet">
      <div class="prose">
        <p>
          Here will be the graph of clients, paths, hosts and users over the shown time: who talks to what for the first time, who does it at an
          unusual rate, which services fail together, and which clients move alike.
        </p>
        <p>It needs the engine to keep that graph, which this version does not. Until then:</p>
        <ul>
          {TODAY.map(({ question, view, name }) => {
            const to = { ...here, view, argument: "", filters: view === "security" ? { rule: "dark-paths" } : {} } as typeof here;
            return (
              <li key={view}>
                {question}{" "}
                <ViewLink to={to}>{name}</ViewLink>
              </li>
            );
          })}
        </ul>
      </div>
    </Card>
  );
}
