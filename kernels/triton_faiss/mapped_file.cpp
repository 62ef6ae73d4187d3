#include "triton_faiss/mapped_file.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <regex>
#include <utility>

#include "triton_faiss/error.h"

namespace attributary::triton {
namespace {

std::string hex(const unsigned char* bytes, unsigned int count) {
  static const char kDigits[] = "0123456789abcdef";
  std::string text;
  for (unsigned int i = 0; i < count; ++i) {
    text.push_back(kDigits[bytes[i] >> 4]);
    text.push_back(kDigits[bytes[i] & 15]);
  }
  return text;
}

}  // namespace

MappedFile::MappedFile(const std::string& path) : name_(path.substr(path.find_last_of('/') + 1)) {
  const auto fail = [&](int error) {
    throw BackendError(ErrorKind::kUnavailable,
                       name_ + ": cannot be read from " + path + ": " + std::strerror(error));
  };
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail(errno);
  struct stat facts{};
  if (fstat(file, &facts) != 0 || !S_ISREG(facts.st_mode)) {
    close(file);
    fail(S_ISDIR(facts.st_mode) ? EISDIR : EINVAL);
  }
  size_ = static_cast<std::size_t>(facts.st_size);
  if (size_ > 0) {
    void* at = mmap(nullptr, size_, PROT_READ, MAP_SHARED, file, 0);
    const int error = errno;
    close(file);
    if (at == MAP_FAILED) fail(error);
    data_ = static_cast<std::uint8_t*>(at);
  } else {
    close(file);
  }
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      name_(std::move(other.name_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(name_, other.name_);
  return *this;
}

void MappedFile::verify(const std::string& sha256) const {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  if (!context || EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) != 1 ||
      EVP_DigestUpdate(context.get(), data_, size_) != 1 ||
      EVP_DigestFinal_ex(context.get(), digest, &length) != 1) {
    throw BackendError(ErrorKind::kInternal, name_ + ": its SHA-256 cannot be computed");
  }
  if (hex(digest, length) != sha256) {
    throw BackendError(ErrorKind::kInvalidArgument, name_ + ": has changed since the bundle was verified");
  }
}

const void* MappedFile::npy(const std::string& descr, std::int64_t rows, std::int64_t columns) const {
  const auto fail = [&](const std::string& problem) {
    throw BackendError(ErrorKind::kInvalidArgument, name_ + ": " + problem);
  };
  const std::string wanted = descr + " [" + std::to_string(rows) + ", " + std::to_string(columns) + "]";
  static const char kMagic[] = "\x93NUMPY";
  if (size_ < 12 || std::memcmp(data_, kMagic, 6) != 0) fail("is not a .npy file, must be " + wanted);
  // Version 1 has a header length of 2 bytes, later ones of 4; all little-endian.
  const std::size_t width = data_[6] == 1 ? 2 : 4;
  std::size_t length = 0;
  for (std::size_t i = 0; i < width; ++i) length |= static_cast<std::size_t>(data_[8 + i]) << (8 * i);
  const std::size_t start = 8 + width + length;
  if (start > size_) fail("ends inside its header");
  if (length > 4096) fail("has a header of " + std::to_string(length) + " bytes, must be " + wanted);
  const std::string header(reinterpret_cast<const char*>(data_) + 8 + width, length);

  // A Python dictionary that NumPy writes in one way only.
  static const std::regex kShape(
      R"re(^\{'descr': '([^']*)', 'fortran_order': (True|False), 'shape': \((\d{1,18}), (\d{1,18})\), \}\s*$)re");
  std::smatch found;
  if (!std::regex_match(header, found, kShape))
    fail("must be " + wanted + ", its header is " + header.substr(0, 120));
  const std::string got = found[1].str() + " [" + found[3].str() + ", " + found[4].str() + "]";
  if (found[2] == "True") fail("is in Fortran order, must be in C order");
  if (got != wanted) fail("must be " + wanted + ", is " + got);
  const auto item = static_cast<std::size_t>(std::stoi(descr.substr(2)));
  const auto need = static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns) * item;
  if (size_ - start != need) {
    fail("holds " + std::to_string(size_ - start) + " bytes of data, " + wanted + " has " +
         std::to_string(need));
  }
  if (start % 16 != 0) fail("its data does not start at a multiple of 16 bytes");
  return data_ + start;
}

}  // namespace attributary::triton
