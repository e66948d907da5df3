// Values that components watch: the smallest store that does the job.

import { useEffect, useReducer } from "preact/hooks";

export class Watched<T> {
  private watchers = new Set<() => void>();
  constructor(private value: T) {}

  get(): T {
    return this.value;
  }

  set(value: T): void {
    if (Object.is(value, this.value)) return;
    this.value = value;
    for (const watcher of [...this.watchers]) watcher();
  }

  watch(watcher: () => void): () => void {
    this.watchers.add(watcher);
    return () => void this.watchers.delete(watcher);
  }
}

/** The value; the component is drawn again when it changes. */
export function useWatched<T>(cell: Watched<T>): T {
  const [, redraw] = useReducer<number, void>((n) => n + 1, 0);
  const seen = cell.get();
  useEffect(() => {
    // It may have changed between drawing and watching.
    if (!Object.is(cell.get(), seen)) redraw();
    return cell.watch(() => redraw());
  }, [cell]);
  return seen;
}
