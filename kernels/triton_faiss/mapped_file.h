// A file mapped for reading, its SHA-256, and arrays in NumPy's .npy format inside it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace attributary::triton {

// Read-only mapping of a whole file. Raises BackendError that names the file.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::uint8_t* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  // Last part of the path: what messages name.
  const std::string& name() const noexcept { return name_; }

  // Raises BackendError unless the contents have this SHA-256 (lower-case hex). Reads every page, which also
  // warms the mapping.
  void verify(const std::string& sha256) const;

  // Checks the .npy header against a type ("<f2", "<i4") and a C-ordered shape [rows, columns]; returns the
  // data, aligned to 16 bytes at least. Raises BackendError that says what was found.
  const void* npy(const std::string& descr, std::int64_t rows, std::int64_t columns) const;

 private:
  std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
  std::string name_;
};

}  // namespace attributary::triton
