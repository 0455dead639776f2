import { quote } from "../device/shell-quote.ts";

/*
 * How a swap file is recognised, by the same rule when looking and right before removing: a regular file whose first page ends in "SWAPSPACE2"
 * (mkswap(8); `union swap_header` in the kernel's include/linux/swap.h). Where the page ends depends on the kernel that made it: a Pi 5 has pages of
 * 16 KiB, most other machines of 4 KiB.
 */
const signature = "SWAPSPACE2";
const pageSizes = [4096, 8192, 16384, 65536] as const;
const offsets: readonly number[] = pageSizes.map((size) => size - signature.length);

/** Shell that prints the offset of each signature in the first 64 KiB of the file named by a shell word, as `OFFSET:SWAPSPACE2`. */
export function signatureOffsets(word: string): string {
  // What can't be read is said in the stream itself: the status of a pipe's first command is lost.
  return `{ head -c 65536 -- ${word} || printf '\\n%s\\n' edgeseal-unreadable; } | grep -aobF -e ${signature} -e edgeseal-unreadable`;
}

/** Reads one line of `signatureOffsets`. */
export function readSignature(line: string): "swap" | "unreadable" | "other" {
  if (line.endsWith(":edgeseal-unreadable")) return "unreadable";
  return offsets.some((offset) => line === `${offset}:${signature}`) ? "swap" : "other";
}

/**
 * The path that belongs to rpi-swap and dphys-swapfile. What is there holds memory whether or not it has a signature: as the store that zram writes idle
 * pages back to, it has none.
 */
const ownedPath = "/var/swap";

export const isSwapByPath = (path: string): boolean => path === ownedPath;

/** A shell test that a path is a regular file, no link, and by its signature or its path a swap file. `word` names the same file in the shell. */
export function isSwapFile(path: string, word = quote(path)): string {
  if (isSwapByPath(path)) return `[ -f ${word} ] && [ ! -L ${word} ]`;
  return `[ -f ${word} ] && [ ! -L ${word} ] && ${signatureOffsets(word)} | grep -qxE '(${offsets.join("|")}):${signature}'`;
}

/** A path as the kernel writes it in /proc/swaps: white space and backslashes as octal escapes. */
export function escapeForProcSwaps(path: string): string {
  return path.replaceAll(/[ \t\n\\]/g, (char) => `\\${char.charCodeAt(0).toString(8).padStart(3, "0")}`);
}

/** The reverse of `escapeForProcSwaps`; fstab(5) uses the same escapes. */
export function unescapeOctal(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

/** A shell test that an area is listed in /proc/swaps. */
export function isActiveArea(path: string): string {
  return `AREA=${quote(escapeForProcSwaps(path))} awk 'NR > 1 && $1 == ENVIRON["AREA"] { found = 1 } END { exit !found }' /proc/swaps`;
}
