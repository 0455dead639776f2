/*
 * As much of an ELF file (ELF-64 Object File Format, 1.5; gABI, "Dynamic Section") as says what it needs to run: so that an image holds the libraries that its
 * program loads and no others, and a missing one is found when the image is built, for another architecture too.
 */

const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const DT_NEEDED = 1n;
const DT_STRTAB = 5n;

interface Segment {
  readonly type: number;
  readonly offset: number;
  readonly address: bigint;
  readonly size: number;
}

/** What an ELF file asks the dynamic linker for. */
export interface ElfNeeds {
  /** Path of the dynamic linker, of a program. */
  readonly interpreter: string | undefined;
  /** Names of the libraries: `libc.so.6`. */
  readonly needed: readonly string[];
}

/** What a file needs to run; `undefined` when it is no 64-bit little-endian ELF file. @throws RangeError when it ends too early */
export function elfNeeds(bytes: Buffer): ElfNeeds | undefined {
  if (bytes.length < 64 || bytes.readUInt32BE(0) !== 0x7f454c46) return undefined;
  if (bytes.readUInt8(4) !== 2 || bytes.readUInt8(5) !== 1) return undefined;
  const segments = segmentsOf(bytes);
  const interpreter = segments.find(({ type }) => type === PT_INTERP);
  const dynamic = segments.find(({ type }) => type === PT_DYNAMIC);
  return {
    interpreter: interpreter && textAt(bytes, interpreter.offset),
    needed: dynamic === undefined ? [] : neededBy(bytes, dynamic, segments),
  };
}

function segmentsOf(bytes: Buffer): readonly Segment[] {
  const start = Number(bytes.readBigUInt64LE(0x20));
  const entrySize = bytes.readUInt16LE(0x36);
  const count = bytes.readUInt16LE(0x38);
  return Array.from({ length: count }, (_, index) => {
    const at = start + index * entrySize;
    return {
      type: bytes.readUInt32LE(at),
      offset: Number(bytes.readBigUInt64LE(at + 8)),
      address: bytes.readBigUInt64LE(at + 16),
      size: Number(bytes.readBigUInt64LE(at + 32)),
    };
  });
}

function neededBy(bytes: Buffer, dynamic: Segment, segments: readonly Segment[]): readonly string[] {
  const entries: { readonly tag: bigint; readonly value: bigint }[] = [];
  for (let at = dynamic.offset; at < dynamic.offset + dynamic.size; at += 16)
    entries.push({ tag: bytes.readBigUInt64LE(at), value: bytes.readBigUInt64LE(at + 8) });
  const table = entries.find(({ tag }) => tag === DT_STRTAB)?.value;
  const needed = entries.filter(({ tag }) => tag === DT_NEEDED);
  if (table === undefined || needed.length === 0) return [];
  const names = offsetOf(table, segments);
  return needed.map(({ value }) => textAt(bytes, names + Number(value)));
}

/** Where in the file that is which is loaded at an address. */
function offsetOf(address: bigint, segments: readonly Segment[]): number {
  const segment = segments.find(
    (each) => each.type === PT_LOAD && address >= each.address && address < each.address + BigInt(each.size),
  );
  if (segment === undefined) throw new RangeError("an ELF file whose strings are in no segment");
  return segment.offset + Number(address - segment.address);
}

function textAt(bytes: Buffer, offset: number): string {
  const end = bytes.indexOf(0, offset);
  if (end === -1) throw new RangeError("an ELF file ends within a string");
  return bytes.toString("latin1", offset, end);
}
