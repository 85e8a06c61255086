/** CRC-32, as in zlib, PNG and gzip. */

const TABLE = new Uint32Array(256).map((_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

export function crc32(data: Uint8Array): number {
  let value = 0xffffffff;
  for (let index = 0; index < data.length; index++) value = (value >>> 8) ^ TABLE[(value ^ data[index]) & 0xff];
  return (value ^ 0xffffffff) >>> 0;
}
