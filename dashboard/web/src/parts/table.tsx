// Tables: real ones, sorted by their heads. On narrow screens they scroll by themselves or show a row as a card; the roles are
// written out, because some browsers forget them where a table is laid out otherwise.
//
// - A row is rendered again only where the row, the columns or its class are others: a tail of requests adds some rows a
//   second to hundreds. Whoever wants that keeps rows and columns the same objects.
// - A row stays the same element, and keeps the focus, while others come and go: it is known by its key, not by its place.

import { Fragment, type ComponentChildren, type RefObject } from "preact";
import { memo } from "preact/compat";
import { useRef, useState } from "preact/hooks";

export interface Column<Row> {
  name: string;
  /** What the name means, for who points at it. */
  title?: string;
  /** What stands in the cell. */
  cell: (row: Row) => ComponentChildren;
  /** What rows are sorted by; none: not sortable. */
  by?: (row: Row) => number | string | null | undefined;
  number?: boolean;
  /** Takes the room that is left, and cuts its text. */
  wide?: boolean;
  /** Not shown on narrow screens. */
  minor?: boolean;
  class?: string;
}

export interface TableProps<Row> {
  label: string;
  rows: readonly Row[];
  columns: Column<Row>[];
  rowKey: (row: Row) => string;
  empty: ComponentChildren;
  /** Column and direction before anybody sorts; none: as the rows come. */
  sorted?: { name: string; down: boolean };
  /** What opens below a row. */
  detail?: (row: Row) => ComponentChildren;
  open?: string | null;
  onOpen?: (key: string | null) => void;
  /** What the button that opens a row is called. */
  openLabel?: (row: Row) => string;
  rowClass?: (row: Row) => string;
  limit?: number;
  /** On narrow screens a row is a card; for tables too wide to stay tables there. */
  cards?: boolean;
}

export function Table<Row>(props: TableProps<Row>) {
  const [sort, setSort] = useState(props.sorted ?? null);
  const { columns, detail } = props;
  const latest = useRef(props);
  latest.current = props;
  let rows = props.rows;
  const by = sort && columns.find((column) => column.name === sort.name)?.by;
  if (by) rows = [...rows].sort((a, b) => compare(by(a), by(b)) * (sort.down ? -1 : 1));
  if (props.limit) rows = rows.slice(0, props.limit);
  return (
    <div class={`table-room${props.cards ? " cards" : ""}`}>
      <table role="table" aria-label={props.label}>
        <thead role="rowgroup">
          <tr role="row">
            {columns.map((column) => (
              <th
                key={column.name}
                scope="col"
                role="columnheader"
                class={classes(column)}
                title={column.title}
                aria-sort={column.by ? (sort?.name === column.name ? (sort.down ? "descending" : "ascending") : "none") : undefined}
              >
                {column.by ? (
                  <button type="button" class="sort" onClick={() => setSort({ name: column.name, down: sort?.name === column.name ? !sort.down : (column.number ?? false) })}>
                    {column.name}
                    {sort?.name === column.name && (
                      <span class="arrow" aria-hidden="true">
                        {sort.down ? "▾" : "▴"}
                      </span>
                    )}
                  </button>
                ) : (
                  column.name
                )}
              </th>
            ))}
            {detail && (
              <th scope="col" role="columnheader" class="opener">
                <span class="visually-hidden">Details</span>
              </th>
            )}
          </tr>
        </thead>
        <tbody role="rowgroup">
          {rows.map((row) => {
            const key = props.rowKey(row);
            const isOpen = props.open === key;
            return (
              <Fragment key={key}>
                <TableRow row={row} id={key} columns={columns as Column<unknown>[]} isOpen={isOpen} class={props.rowClass?.(row) ?? ""} table={latest as unknown as RefObject<TableProps<unknown>>} />
                {isOpen && detail && (
                  <tr role="row" class="detail">
                    <td role="cell" colSpan={columns.length + 1}>{detail(row)}</td>
                  </tr>
                )}
              </Fragment>
            );
          })}
        </tbody>
      </table>
      {rows.length === 0 && <p class="empty">{props.empty}</p>}
    </div>
  );
}

interface RowProps {
  row: unknown;
  id: string;
  columns: Column<unknown>[];
  isOpen: boolean;
  class: string;
  /** The table as it is now: what is called must not be of an earlier time. */
  table: RefObject<TableProps<unknown>>;
}

const TableRow = memo(function TableRow({ row, id, columns, isOpen, class: className, table }: RowProps) {
  const { detail, openLabel } = table.current ?? {};
  const toggle = () => table.current?.onOpen?.(isOpen ? null : id);
  return (
    <tr role="row" class={`${className}${detail ? " opens" : ""}${isOpen ? " open" : ""}`} onClick={detail ? (event) => clicked(event) && toggle() : undefined}>
      {columns.map((column) => (
        <td key={column.name} role="cell" class={classes(column)} data-name={column.name}>
          {column.cell(row)}
        </td>
      ))}
      {detail && (
        <td role="cell" class="opener">
          <button type="button" class="quiet" aria-expanded={isOpen} aria-label={openLabel?.(row) ?? "Details"} onClick={toggle}>
            <span aria-hidden="true">{isOpen ? "▾" : "▸"}</span>
          </button>
        </td>
      )}
    </tr>
  );
});

/** A click on the row itself, not on a link or button in it, and not the end of marking text. */
function clicked(event: MouseEvent): boolean {
  const target = event.target as Element;
  return !target.closest("a, button, input") && !String(getSelection() ?? "");
}

function classes<Row>(column: Column<Row>): string {
  return [column.number && "number", column.wide && "wide", column.minor && "minor", column.class].filter(Boolean).join(" ");
}

function compare(a: number | string | null | undefined, b: number | string | null | undefined): number {
  if (a === b) return 0;
  // What has no value comes last when sorting down.
  if (a === null || a === undefined) return -1;
  if (b === null || b === undefined) return 1;
  return typeof a === "number" && typeof b === "number" ? a - b : String(a) < String(b) ? -1 : 1;
}
