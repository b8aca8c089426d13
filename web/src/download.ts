// What a reader takes away: files made in the page, sent nowhere.

/** Offers a text as a file. */
export function download(name: string, content: string, type: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Offers records as JSON lines. */
export function downloadLines(name: string, rows: unknown[]): void {
  download(name, rows.map((row) => JSON.stringify(row)).join("\n") + "\n", "application/jsonl");
}
