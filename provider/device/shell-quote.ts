/**
 * One POSIX `sh` word that stands for exactly this text.
 * @throws TypeError for a NUL byte, which no shell word can hold.
 */
export function quote(text: string): string {
  if (text.includes("\0")) throw new TypeError("a shell word can't hold a NUL byte");
  return /^[A-Za-z0-9_./:=@%+,-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
