// Addresses of clients, compared by what they mean: the same as the server's, spelling does not matter.

/** An address in bits of its family; IPv4 within IPv6 is IPv4. */
export interface Address {
  family: 4 | 6;
  value: bigint;
}

/** An address; null where the text is none, names among them. */
export function parseAddress(text: string): Address | null {
  const four = parseFour(text);
  if (four !== null) return { family: 4, value: four };
  if (!text.includes(":")) return null;
  const value = parseSix(text);
  if (value === null) return null;
  return value >> 32n === 0xffffn ? { family: 4, value: value & 0xffff_ffffn } : { family: 6, value };
}

function parseFour(text: string): bigint | null {
  if (!/^\d{1,3}(\.\d{1,3}){3}$/.test(text)) return null;
  const parts = text.split(".").map(Number);
  return parts.every((part) => part <= 255) ? parts.reduce((value, part) => (value << 8n) | BigInt(part), 0n) : null;
}

function parseSix(text: string): bigint | null {
  const halves = text.split("::");
  if (halves.length > 2) return null;
  const [head = [], tail = []] = halves.map((half) => (half ? half.split(":") : []));
  const all = [...head, ...tail];
  const last = all[all.length - 1] ?? "";
  const four = last.includes(".") ? parseFour(last) : null;
  if (last.includes(".") && (four === null || text.endsWith("::"))) return null;
  const groups = (four === null ? all : all.slice(0, -1)).map((group) => (/^[\da-f]{1,4}$/i.test(group) ? BigInt(`0x${group}`) : null));
  if (four !== null) groups.push(four >> 16n, four & 0xffffn);
  const missing = 8 - groups.length;
  if (halves.length === 2 ? missing < 1 : missing !== 0) return null;
  groups.splice(head.length, 0, ...Array<bigint>(missing).fill(0n));
  return groups.reduce<bigint | null>((value, group) => (value === null || group === null ? null : (value << 16n) | group), 0n);
}

/** Whether a client is the one that is wanted, or within the network (`ADDRESS/BITS`) that is. */
export function clientMatcher(wanted: string): (client: string) => boolean {
  const [text = "", bits] = wanted.split("/");
  const address = parseAddress(text);
  const width = address?.family === 4 ? 32 : 128;
  if (!address || (bits !== undefined && !(/^\d+$/.test(bits) && Number(bits) <= width))) return (client) => client === wanted;
  const shift = BigInt(width - Number(bits ?? width));
  const network = address.value >> shift;
  return (client) => {
    const found = parseAddress(client);
    return found !== null && found.family === address.family && found.value >> shift === network;
  };
}
